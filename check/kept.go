package check

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/storepath"
)

// keptFile, in the state directory, lists objects of which the upper has a copy since a
// lower's is damaged although its database has the same hash: they are no duplicates. A
// base name a line; lines that are none are passed over. It is only ever needed by those
// who would take the copy away, so it is written before the copy is made.
const keptFile = "strata-kept"

// maxKept bounds what is read of it.
const maxKept = 64 << 20

func (x *examination) readKept() (storepath.Set, error) { return ReadKept(x.StateDir) }

// ReadKept reads from a state directory the list of objects of which the upper has a copy because a
// lower's is damaged, whatever its database says. Without a list it is empty.
func ReadKept(stateDir string) (storepath.Set, error) {
	kept := storepath.Set{}
	path := filepath.Join(stateDir, keptFile)
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() > maxKept) {
		err = fmt.Errorf("'%s' is no list of objects", path)
	}
	if err != nil {
		return kept, err
	}
	text, err := os.ReadFile(path)
	for line := range bytes.Lines(text) {
		if p, err := storepath.ParseBase(strings.TrimSuffix(string(line), "\n")); err == nil {
			kept.Add(p)
		}
	}
	return kept, err
}

// keep notes that the copy of a path in the upper is needed.
func (x *examination) keep(p storepath.Path) error {
	kept, err := x.readKept()
	if err != nil || !kept.Add(p) {
		return err
	}
	x.kept = kept
	path := filepath.Join(x.StateDir, keptFile)
	text := strings.Join(slices.Collect(func(yield func(string) bool) {
		for _, q := range kept.Sorted() {
			if !yield(q.Base() + "\n") {
				return
			}
		}
	}), "")
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) //nolint:gosec // no secret
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	crashpoint.Reached("check: list of kept objects written")
	return os.Rename(path+".new", path)
}
