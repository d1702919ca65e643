package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-nix/strata/internal/corpus"
	"github.com/strata-nix/strata/internal/debian"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/storepath"
)

// inputsVersion is part of the names of inputs in the cache; another number
// makes them anew.
const inputsVersion = "v1"

// Files of an input in the cache.
const (
	pathsFile = "paths"   // one store path a line
	rootFile  = "root"    // the path with the largest closure
	narFile   = "objects" // NAR of the store directory
	storeDir  = "store"   // a root directory with a database
)

// maker makes inputs outside of the world, with stock Nix where that has to say
// what they are.
type maker struct {
	ctx     context.Context
	o       options
	nix     *testenv.NixEnv
	archive *debian.Archive
	tmp     string // a directory in memory
}

// scaled is a count at this run's scale, at least least.
func (o options) scaled(n, least int) int { return max(int(float64(n)*o.Scale+0.5), least) }

func (m *maker) cached(name string, make func(ctx context.Context, dir string) error) (string, error) {
	dir, err := testenv.Cached(m.ctx, "bench-"+name+"-"+inputsVersion, func(ctx context.Context, dir string) error {
		fmt.Fprintf(os.Stderr, "bench: making the input %s\n", name)
		return make(ctx, dir)
	})
	if err != nil {
		return "", fmt.Errorf("the input %s: %w", name, err)
	}
	return dir, nil
}

// command runs something of stock Nix, seeing the input that is being made.
func (m *maker) command(ctx context.Context, dir string, stdin io.Reader, name string, args ...string) error {
	cmd := m.nix.WithBind(dir, dir).With("NIX_CONFIG", nixConfig).Command(ctx, name, args...)
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// load makes a store in dir with the registration of it, by stock Nix.
func (m *maker) load(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, corpus.RegistrationFile))
	if err != nil {
		return err
	}
	defer f.Close()
	return m.command(ctx, dir, f, "nix-store", "--store", filepath.Join(dir, storeDir), "--load-db")
}

// paths are n paths without objects: a registration, a list, a store.
func (m *maker) paths(n int) (string, error) {
	what := "paths"
	if m.o.Smoke { // without asking the network
		what = "invented-paths"
	}
	return m.cached(fmt.Sprintf("%s-%d", what, n), func(ctx context.Context, dir string) error {
		if err := m.register(ctx, dir, n); err != nil {
			return err
		}
		return errors.Join(listPaths(dir), m.load(ctx, dir))
	})
}

// register writes the registration, and the path with the largest closure.
func (m *maker) register(ctx context.Context, dir string, n int) error {
	if m.o.Smoke {
		objects := filepath.Join(dir, "objects")
		err := corpus.Trees(ctx, corpus.TreesOptions{N: n, Fan: 8, Empty: true}, objects)
		if err == nil {
			err = os.Rename(filepath.Join(objects, corpus.RegistrationFile), filepath.Join(dir, corpus.RegistrationFile))
		}
		return errors.Join(err, os.RemoveAll(objects))
	}
	reg, err := os.Create(filepath.Join(dir, corpus.RegistrationFile))
	if err != nil {
		return err
	}
	defer reg.Close()
	var stats bytes.Buffer
	// Copies of the suites' graphs until there are enough; a copy has some 200,000.
	err = corpus.Metadata(ctx, m.archive, corpus.MetadataOptions{Variants: n/150_000 + 1, Limit: n}, reg, &stats)
	if err != nil {
		return err
	}
	size, root := 0, ""
	for line := range strings.Lines(stats.String()) {
		var suite, path string
		var k int
		if c, _ := fmt.Sscanf(line, "closure %s %d %s", &suite, &k, &path); c == 3 && k > size {
			size, root = k, path
		}
	}
	return os.WriteFile(filepath.Join(dir, rootFile), []byte(root), 0o644)
}

// listPaths writes the list of what is registered, and, if nobody has chosen it,
// the last as that with the largest closure. One that was chosen and left out by
// a limit is no use either.
func listPaths(dir string) error {
	f, err := os.Open(filepath.Join(dir, corpus.RegistrationFile))
	if err != nil {
		return err
	}
	defer f.Close()
	var list []string
	for info, err := range registration.Read(f, storepath.DefaultDir) {
		if err != nil {
			return err
		}
		list = append(list, storepath.DefaultDir.Print(info.Path))
	}
	root, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil || !slices.Contains(list, string(root)) {
		root = []byte(list[len(list)-1])
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, rootFile), root, 0o644),
		os.WriteFile(filepath.Join(dir, pathsFile), []byte(strings.Join(list, "\n")+"\n"), 0o644))
}

// trees are n small objects: their registration, list, and database, and all of
// them as one NAR, which is faster to unpack than files are to copy. Empty ones
// are just entries of the store directory.
func (m *maker) trees(n int, empty bool) (string, error) {
	name := fmt.Sprintf("trees-%d", n)
	if empty {
		name = "empty-" + name
	}
	return m.cached(name, func(ctx context.Context, dir string) error {
		tmp := filepath.Join(m.tmp, name)
		defer testenv.RemoveAll(tmp)
		if err := corpus.Trees(ctx, corpus.TreesOptions{N: n, Pool: max(n/5, 1), Fan: 8, Empty: empty}, tmp); err != nil {
			return err
		}
		return errors.Join(keepTrees(ctx, tmp, dir), listPaths(dir), m.load(ctx, dir))
	})
}

// dumpTo writes the NAR of a tree to a file.
func dumpTo(ctx context.Context, file, tree string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(nar.Dump(ctx, w, tree), w.Flush(), f.Close())
}

// keepTrees copies a registration and makes one NAR of the objects.
func keepTrees(ctx context.Context, from, to string) error {
	reg, err := os.ReadFile(filepath.Join(from, corpus.RegistrationFile))
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(to, corpus.RegistrationFile), reg, 0o644),
		dumpTo(ctx, filepath.Join(to, narFile), corpus.StoreIn(from)))
}

// objects are real trees in a store of their own; the list is what copies copy.
func (m *maker) objects() (string, error) {
	if m.o.Smoke {
		small, err := testenv.SmallCorpus(m.ctx, false, io.Discard)
		if err != nil {
			return "", err
		}
		return m.adopt("objects-small", small, smokeBytes)
	}
	return m.cached("objects", func(ctx context.Context, dir string) error {
		pins, err := corpus.Bench()
		if err != nil {
			return err
		}
		made := filepath.Join(dir, storeDir)
		if err := corpus.Objects(ctx, m.archive, pins, made, io.Discard); err != nil {
			return err
		}
		err = os.Rename(filepath.Join(made, corpus.RegistrationFile), filepath.Join(dir, corpus.RegistrationFile))
		return errors.Join(err, listPaths(dir), m.load(ctx, dir))
	})
}

// programs are real trees of packages with programs that run.
func (m *maker) programs() (string, error) {
	made, err := testenv.ProgramsCorpus(m.ctx, false, io.Discard)
	if err != nil {
		return "", err
	}
	return m.adopt("programs", made, math.MaxUint64)
}

// adopt makes an input of some objects that are there already, a closed set, as far as limit bytes go.
func (m *maker) adopt(name, from string, limit uint64) (string, error) {
	return m.cached(name, func(ctx context.Context, dir string) error {
		made := filepath.Join(dir, storeDir, string(storepath.DefaultDir))
		if err := os.MkdirAll(made, 0o755); err != nil {
			return err
		}
		f, err := os.Open(filepath.Join(from, corpus.RegistrationFile))
		if err != nil {
			return err
		}
		defer f.Close()
		var reg []byte
		size := uint64(0)
		for info, err := range registration.Read(f, storepath.DefaultDir) {
			if err != nil {
				return err
			}
			if size += info.NarSize; size > limit {
				break // what comes first refers to nothing that comes later
			}
			reg = registration.Append(reg, storepath.DefaultDir, info)
			if err := do(ctx, "cp", "-a", filepath.Join(corpus.StoreIn(from), info.Path.Base()), made); err != nil {
				return err
			}
		}
		err = os.WriteFile(filepath.Join(dir, corpus.RegistrationFile), reg, 0o644)
		return errors.Join(err, listPaths(dir), m.load(ctx, dir))
	})
}

// cache is a binary cache with the objects of an input, made by stock Nix.
func (m *maker) cache(input, compression string) (string, error) {
	return m.cached(strings.TrimPrefix(filepath.Base(input), "bench-")+"-"+compression, func(ctx context.Context, dir string) error {
		list, err := readLines(filepath.Join(input, pathsFile))
		if err != nil {
			return err
		}
		from := filepath.Join(input, storeDir)
		nix := m.nix.WithBind(dir, dir).With("NIX_CONFIG", nixConfig)
		if _, err := os.Stat(filepath.Join(input, narFile)); err == nil { // the objects are in there
			from = filepath.Join(m.tmp, "unpacked")
			defer testenv.RemoveAll(from)
			if err := errors.Join(copyStore(ctx, input, from), unpackNAR(ctx, input, from)); err != nil {
				return err
			}
		}
		cmd := nix.WithBind(from, from).Command(ctx, "xargs", "nix", "copy", "--no-check-sigs", "--from", from,
			"--to", "file://"+dir+"?compression="+compression)
		cmd.Stdin = strings.NewReader(strings.Join(list, "\n"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nix copy: %w\n%s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// unpackNAR puts the objects of an input where a store wants them.
func unpackNAR(ctx context.Context, input, root string) error {
	f, err := os.Open(filepath.Join(input, narFile))
	if err != nil {
		return err
	}
	defer f.Close()
	dir := corpus.StoreIn(root)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(filepath.Dir(dir), 0o755)); err != nil {
		return err
	}
	if _, err := nar.Restore(ctx, bufio.NewReaderSize(f, 1<<20), dir, nar.RestoreOptions{}); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // it is no object, though its NAR was taken
}

func readLines(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	return lines, s.Err()
}
