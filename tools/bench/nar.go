package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/internal/testenv"
)

// Packages of the corpus with a few large files, and with very many small ones.
// For smoke tests any will do.
var (
	bigPackages   = []string{"-libllvm19-", ""}
	smallPackages = []string{"-libboost1.83-dev-", ""}
)

// smallCopies is how often the tree of small files is there, so that it has some
// 140,000.
const smallCopies = 9

// narRows pack, hash and unpack trees. The figures are seconds; the sizes are in
// the names.
func narRows(o options) []row {
	needs := []need{{kind: needObjects}}
	rows := func(size string, target float64) []row {
		what := map[string]string{"big": "a few large files", "small": "some 140,000 small files"}[size]
		return []row{
			{name: "nar/dump-" + size, what: "dump of " + what, unit: seconds, target: target, needs: needs, run: narDump(size)},
			{name: "nar/hash-" + size, what: "hash of " + what, unit: seconds, target: target, needs: needs, run: narHash(size)},
			{name: "nar/restore-" + size, what: "restore of " + what, unit: seconds, target: target, needs: needs, run: narRestore(size)},
		}
	}
	return append(rows("big", 1), rows("small", 1.5)...)
}

// tree gives a directory to pack.
func (w *world) tree(ctx context.Context, size string) (string, error) {
	return keep(w, "tree "+size, func() (string, func() error, error) {
		store := filepath.Join(w.input(need{kind: needObjects}), storeDir, "nix/store")
		from, err := findPackage(store, size)
		if err != nil || size == "big" {
			return from, nil, err
		}
		to := filepath.Join(w.mem, "small")
		end := func() error { return testenv.RemoveAll(to) }
		if err := os.Mkdir(to, 0o755); err != nil {
			return "", nil, err
		}
		for i := range w.o.scaled(smallCopies, 1) {
			copied := filepath.Join(to, fmt.Sprintf("copy-%d", i))
			how := "-a"
			if i > 0 { // links, since contents are not what costs here
				how, from = "-al", filepath.Join(to, "copy-0")
			}
			if err := do(ctx, "cp", how, from, copied); err != nil {
				return "", end, err
			}
		}
		return to, end, nil
	})
}

func findPackage(store, size string) (string, error) {
	names := bigPackages
	if size == "small" {
		names = smallPackages
	}
	entries, err := os.ReadDir(store)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		for _, e := range entries {
			if strings.Contains(e.Name(), name) {
				return filepath.Join(store, e.Name()), nil
			}
		}
	}
	return "", fmt.Errorf("the objects have none of %q", names)
}

func narDump(size string) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		tree, err := w.tree(ctx, size)
		if err != nil {
			return sample{}, err
		}
		return command{
			args:   s.choose([]string{"nix-store", "--dump", tree}, []string{"dump", tree}),
			answer: func(b []byte) (string, error) { return digest(b), nil },
		}.run(ctx, w)
	}
}

func narHash(size string) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		tree, err := w.tree(ctx, size)
		if err != nil {
			return sample{}, err
		}
		// What the path would be follows from the hash of the NAR.
		return command{
			args:   s.choose([]string{"nix", "store", "add", "--dry-run", "--name", "x", tree}, []string{"add", "--dry-run", "--name", "x", tree}),
			answer: sortedLines,
		}.run(ctx, w)
	}
}

func narRestore(size string) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		tree, err := w.tree(ctx, size)
		if err != nil {
			return sample{}, err
		}
		file, err := keep(w, "nar "+size, func() (string, func() error, error) {
			file := filepath.Join(w.disk, size+".nar")
			return file, func() error { return os.Remove(file) }, do(ctx, "sh", "-c", `exec "$0" dump "$1" >"$2"`, strataPath, tree, file)
		})
		if err != nil {
			return sample{}, err
		}
		to := filepath.Join(w.mem, "restored")
		if err := testenv.RemoveAll(to); err != nil {
			return sample{}, err
		}
		defer testenv.RemoveAll(to)
		got, err := command{args: s.choose([]string{"nix-store", "--restore", to}, []string{"restore", to}), stdin: file}.run(ctx, w)
		if err == nil && w.o.Smoke {
			hash, herr := command{args: []string{"nix", "hash", "path", to}, answer: sortedLines}.run(ctx, w)
			got.answer, err = hash.answer, herr
		}
		return got, err
	}
}
