package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// overlayRows ask layered stores about what only their lower has.
func overlayRows(o options) []row {
	needs := []need{o.paths(million)}
	return []row{
		{name: "overlay/first-check", what: "first validity check of the largest closure, only in the lower", unit: seconds, target: 18,
			needs: needs, run: firstCheck},
		{name: "overlay/plain-check", what: "the same of a plain store, to compare with", unit: seconds, needs: needs, run: plainCheck},
		{name: "overlay/valid-set", what: "validity of 20,000 lower paths by set, first time, through a daemon", unit: seconds, target: 20,
			needs: needs, run: validSet},
	}
}

// layered mounts an overlay over the store directory of a database, with an
// empty upper layer in memory. end takes it down.
func (w *world) layered(ctx context.Context, n need) (uri string, end func() error, err error) {
	lower, err := w.database(ctx, n)
	if err != nil {
		return "", nil, err
	}
	root, err := w.fresh("overlay")
	if err != nil {
		return "", nil, err
	}
	unmounted, err := mountOverlay(filepath.Join(lower, "nix/store"), root, filepath.Join(root, "merged/nix/store"))
	if err != nil {
		return "", nil, err
	}
	return overlayURI(filepath.Join(root, "merged"), lower, filepath.Join(root, "upper")),
		func() error { return errors.Join(unmounted(), testenv.RemoveAll(root)) }, nil
}

// mountOverlay mounts a lower directory with an upper and a work directory in
// root at a place.
func mountOverlay(lower, root, at string) (end func() error, err error) {
	upper, work := filepath.Join(root, "upper"), filepath.Join(root, "work")
	for _, dir := range []string{upper, work, at} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	for {
		err := unix.Mount("overlay", at, "overlay", 0, options)
		if errors.Is(err, unix.EINTR) {
			continue // a lower through FUSE was asked when a signal of Go's runtime came
		}
		if err != nil {
			return nil, fmt.Errorf("mount an overlay: %w", err)
		}
		return func() error { return unmount(at) }, nil
	}
}

// unmount waits a while for processes that are about to end.
func unmount(at string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(at, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
}

// checkOf is the command that asks about one path, which makes stock Nix copy
// the metadata of its closure.
func checkOf(s side, store, path string) command {
	return command{
		args: s.choose([]string{"nix", "path-info", "--store", store, "--json", "--json-format", "1", path},
			[]string{"--store", store, "info", "--json", path}),
		answer: sameJSON,
	}
}

func firstCheck(ctx context.Context, w *world, s side) (sample, error) {
	n := w.o.paths(million)
	path, err := w.root(n)
	if err != nil {
		return sample{}, err
	}
	uri, end, err := w.layered(ctx, n)
	if err != nil {
		return sample{}, err
	}
	got, err := checkOf(s, uri, path).run(ctx, w)
	if err == nil && s == ours {
		err = w.untouched(ctx)
	}
	return got, firstError(err, end())
}

// untouched sees that the upper's database has no row.
func (w *world) untouched(ctx context.Context) error {
	root := filepath.Join(w.mem, "overlay/merged")
	got, err := command{args: []string{strataPath, "--store", root, "dump-db"}, answer: sortedLines}.run(ctx, w)
	if err == nil && w.o.Smoke && got.answer != emptyAnswer {
		err = fmt.Errorf("asking has written to the upper's database: %s", got.answer)
	}
	return err
}

// emptyAnswer is sortedLines of nothing.
var emptyAnswer, _ = sortedLines(nil)

func plainCheck(ctx context.Context, w *world, s side) (sample, error) {
	n := w.o.paths(million)
	path, err := w.root(n)
	if err != nil {
		return sample{}, err
	}
	root, err := w.database(ctx, n)
	if err != nil {
		return sample{}, err
	}
	return checkOf(s, root, path).run(ctx, w)
}

// validSet is one QueryValidPaths of very many.
func validSet(ctx context.Context, w *world, s side) (sample, error) {
	n := w.o.paths(million)
	path, err := w.root(n)
	if err != nil {
		return sample{}, err
	}
	uri, end, err := w.layered(ctx, n)
	if err != nil {
		return sample{}, err
	}
	d, err := startServer(ctx, w, s, "overlay", uri, spoil(path))
	if err != nil {
		return sample{}, firstError(err, end())
	}
	got, err := d.put(ctx, w, load{Op: "validpaths", Conns: 1, Batch: w.o.scaled(20_000, 10), Paths: w.list(n), Time: 1}) // one request
	if err == nil {
		got.Value = 1 / got.Value
	}
	return got, firstError(err, d.stop(), end())
}
