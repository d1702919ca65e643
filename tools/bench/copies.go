package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/internal/testenv"
)

// copyRows copy from and to binary caches in a directory. What is written goes
// to memory, but for what goes through a daemon.
func copyRows(o options) []row {
	trees := need{kind: needTrees, n: o.scaled(5000, 20)}
	objects := need{kind: needObjects}
	var rows []row
	from := func(codec string, target float64) {
		n := objects
		n.codec = codec
		rows = append(rows, row{name: "copy/from-" + codec, what: "real objects from a file cache, " + codec, unit: seconds,
			target: target, needs: []need{n}, run: fromCache(n)})
	}
	to := func(codec string, target float64, long bool) {
		rows = append(rows, row{name: "copy/to-" + codec, what: "real objects to a file cache, " + codec, unit: seconds,
			target: target, needs: []need{objects}, long: long, run: toCache(objects, codec)})
	}
	from("none", 1.1)
	from("zstd", 1.3)
	from("xz", 1)
	to("none", 1.2, false)
	to("zstd", 1.3, false)
	to("xz", 1.8, true)
	small := trees
	small.codec = "none"
	what := fmt.Sprintf("%d small objects", trees.n)
	return append(rows,
		row{name: "copy/small-from", what: what + " from a file cache", unit: seconds, target: 3, needs: []need{small}, run: fromCache(small)},
		row{name: "copy/small-to", what: what + " to a file cache", unit: seconds, needs: []need{trees}, run: toCache(trees, "none")},
		row{name: "copy/small-daemon", what: what + " from a file cache, through a daemon", unit: seconds, target: 5,
			needs: []need{small, trees}, run: throughDaemon{cache: small, listed: trees}.run},
		row{name: "copy/small-daemon-disk", what: what + ", the same to disk", unit: seconds,
			needs: []need{small, trees}, run: throughDaemon{cache: small, listed: trees, disk: true}.run, pairs: 2},
		row{name: "copy/small-daemon-nix", what: what + ", the same with stock Nix as the client on both sides", unit: seconds,
			needs: []need{small, trees}, run: throughDaemon{cache: small, listed: trees, stockClient: true}.run},
		row{name: "copy/small-substitute", what: what + " that a daemon gets from a file cache by itself, stock Nix asking on both sides", unit: seconds,
			needs: []need{small, trees}, run: throughDaemon{cache: small, listed: trees, stockClient: true, substitute: true}.run})
}

// fromCache copies all of a cache into a new store.
func fromCache(cache need) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		root, err := w.fresh("copy")
		if err != nil {
			return sample{}, err
		}
		defer testenv.RemoveAll(root)
		from := "file://" + w.input(cache)
		got, err := command{args: s.choose(
			[]string{"nix", "copy", "--all", "--no-check-sigs", "--from", from, "--to", root},
			[]string{"copy", "--all", "--no-check-sigs", "--from", from, "--to", root}),
		}.run(ctx, w)
		if err == nil {
			got.answer, err = w.contents(ctx, root)
		}
		return got, err
	}
}

// contents is what a store has, by what stock Nix says of it, and whether files
// are what it says.
func (w *world) contents(ctx context.Context, root string) (string, error) {
	if !w.o.Smoke {
		return "", nil
	}
	if _, err := (command{args: []string{"nix-store", "--store", root, "--verify", "--check-contents"}}).run(ctx, w); err != nil {
		return "", err
	}
	dump, err := command{args: []string{"nix-store", "--store", root, "--dump-db"}, answer: sortedLines}.run(ctx, w)
	return dump.answer, err
}

// toCache copies all of a store into a new cache.
func toCache(from need, codec string) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		root, err := w.objects(ctx, from)
		if err != nil {
			return sample{}, err
		}
		cache, err := w.fresh("cache")
		if err != nil {
			return sample{}, err
		}
		defer os.RemoveAll(cache)
		to := "file://" + cache + "?compression=" + codec
		got, err := command{args: s.choose(
			[]string{"nix", "copy", "--all", "--no-check-sigs", "--from", root, "--to", to},
			[]string{"copy", "--all", "--no-check-sigs", "--from", root, "--to", to}),
		}.run(ctx, w)
		if err != nil || !w.o.Smoke {
			return got, err
		}
		// Stock Nix reads what either side has written.
		read, err := fromCacheAt(ctx, w, cache)
		got.answer = read
		return got, err
	}
}

func fromCacheAt(ctx context.Context, w *world, cache string) (string, error) {
	root, err := w.fresh("copy")
	if err != nil {
		return "", err
	}
	defer testenv.RemoveAll(root)
	from := "file://" + cache
	if _, err := (command{args: []string{"nix", "copy", "--all", "--no-check-sigs", "--from", from, "--to", root}}).run(ctx, w); err != nil {
		return "", err
	}
	return w.contents(ctx, root)
}

// objects gives the root directory of a store with objects, on disk.
func (w *world) objects(ctx context.Context, n need) (string, error) {
	return keep(w, "objects "+n.String(), func() (string, func() error, error) {
		root := filepath.Join(w.disk, n.String())
		end := func() error { return testenv.RemoveAll(root) }
		if err := copyStore(ctx, w.input(n), root); err != nil {
			return "", nil, err
		}
		if n.kind == needObjects {
			return root, end, nil // they are there
		}
		return root, end, unpackTrees(ctx, w.input(n), root)
	})
}

// unpackTrees puts the objects of an input where a store wants them. Another
// process does it, so that this one stays small: what is started from it cannot
// be seen to use less memory than it had.
func unpackTrees(ctx context.Context, input, root string) error {
	return do(ctx, benchPath, unpackName, input, root)
}

// throughDaemon copies from a cache to a daemon, with the paths listed, since
// stock Nix mixes up their order otherwise.
type throughDaemon struct {
	cache, listed need
	disk          bool // the store is not in memory
	stockClient   bool // also of our daemon
	substitute    bool // the client only says what it wants
}

func (c throughDaemon) run(ctx context.Context, w *world, s side) (sample, error) {
	root := filepath.Join(w.mem, "copy")
	if c.disk {
		root = filepath.Join(w.disk, "copy")
	}
	if err := errors.Join(testenv.RemoveAll(root), os.MkdirAll(root, 0o755)); err != nil {
		return sample{}, err
	}
	defer testenv.RemoveAll(root)
	path, err := w.root(c.listed)
	if err != nil {
		return sample{}, err
	}
	d, err := startServer(ctx, w, s, "copy", root, path)
	if err != nil {
		return sample{}, err
	}
	cmd, err := c.command(w, s, d)
	if err != nil {
		return sample{}, firstError(err, d.stop())
	}
	before := cpuSeconds(d.cmd.Process.Pid)
	got, err := cmd.run(ctx, w)
	got.CPU += cpuSeconds(d.cmd.Process.Pid) - before
	got.Memory = 0 // of the client, which is not what is asked about
	if err = firstError(err, d.stop()); err == nil {
		got.answer, err = w.contents(ctx, root)
	}
	return got, err
}

// command is that of the client.
func (c throughDaemon) command(w *world, s side, d *server) (command, error) {
	from, to := "file://"+w.input(c.cache), "unix://"+d.socket
	if s == ours && !c.stockClient {
		return command{args: []string{strataPath, "copy", "--no-check-sigs", "--from", from, "--to", to, "--from-file", w.list(c.listed)}}, nil
	}
	paths, err := readLines(w.list(c.listed))
	args := []string{"nix", "copy", "--no-check-sigs", "--from", from, "--to", to}
	if c.substitute { // the daemon does as its client is set, whom it trusts
		args = []string{"nix-store", "--store", to, "--option", "substituters", from + "?trusted=true", "--realise"}
	}
	return command{args: append(args, paths...)}, err
}
