package debian

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/ulikunitz/xz"
)

// indexAge is how long a package index from the cache is good enough: its
// users want a consistent set more than the newest one.
const indexAge = 7 * 24 * time.Hour

// Packages reads the index of a suite's main section for amd64, sorted by name.
// Of several versions of a package only the first that is listed counts.
func (a *Archive) Packages(ctx context.Context, suite string) ([]*Package, error) {
	file, err := a.Index(ctx, suite, "amd64", indexAge)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	x, err := xz.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	all, err := ParseStanzas(x)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	slices.SortStableFunc(all, func(a, b *Package) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b *Package) bool { return a.Name == b.Name }), nil
}
