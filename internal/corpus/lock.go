package corpus

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/strata-nix/strata/internal/debian"
)

// A Pin names one .deb exactly.
type Pin struct {
	Suite, Name, Version string
	Size                 uint64 // bytes
	SHA256               string // hex
	File                 string // relative to the archive
}

//go:embed packages.txt
var packageList string

//go:embed small.txt
var smallList string

//go:embed small.lock
var smallLock string

//go:embed bench.txt
var benchList string

//go:embed bench.lock
var benchLock string

//go:embed programs.txt
var programsList string

// SmallSuites are those of the small corpus: released ones, whose package files
// stay in the archive.
var SmallSuites = []string{"bookworm", "trixie"}

// BenchSuites are those of the corpus for benchmarks.
var BenchSuites = []string{"trixie"}

// Full are the names of the packages of the full corpus.
func Full() []string { return readList(packageList) }

// SmallNames are the names of the packages of the small corpus.
func SmallNames() []string { return readList(smallList) }

// Small are the pinned packages of the small corpus.
func Small() ([]Pin, error) { return ReadLock(strings.NewReader(smallLock)) }

// BenchNames are the names of the packages of the corpus for benchmarks.
func BenchNames() []string { return readList(benchList) }

// Bench are the pinned packages of the corpus for benchmarks.
func Bench() ([]Pin, error) { return ReadLock(strings.NewReader(benchLock)) }

// ProgramsNames are the names of packages with programs that tests run. They are of
// the suites of the corpus for benchmarks.
func ProgramsNames() []string { return readList(programsList) }

// readList splits a list of names; "#" begins a comment.
func readList(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.Fields(line)...)
	}
	return names
}

// Choose pins what each suite has now of the named packages; those that it
// lacks are left out. A name may be limited to one suite: "suite:name".
func Choose(ctx context.Context, a *debian.Archive, names, suites []string) ([]Pin, error) {
	var pins []Pin
	for _, suite := range suites {
		pkgs, err := a.Packages(ctx, suite)
		if err != nil {
			return nil, err
		}
		for _, p := range pkgs {
			if slices.Contains(names, p.Name) || slices.Contains(names, suite+":"+p.Name) {
				pins = append(pins, Pin{suite, p.Name, p.Version, p.Size, p.SHA256, p.Filename})
			}
		}
	}
	return pins, nil
}

// WriteLock writes pins, one a line.
func WriteLock(w io.Writer, pins []Pin) error {
	bw := bufio.NewWriter(w)
	fmt.Fprintln(bw, "# suite name version size sha256 file")
	for _, p := range pins {
		fmt.Fprintln(bw, p.Suite, p.Name, p.Version, p.Size, p.SHA256, p.File)
	}
	return bw.Flush()
}

// ReadLock reads what WriteLock wrote.
func ReadLock(r io.Reader) ([]Pin, error) {
	var pins []Pin
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		var p Pin
		if _, err := fmt.Sscan(line, &p.Suite, &p.Name, &p.Version, &p.Size, &p.SHA256, &p.File); err != nil {
			return nil, fmt.Errorf("lock, line %d: %w", n, err)
		}
		pins = append(pins, p)
	}
	return pins, lines.Err()
}
