package corpus

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/storepath"
)

// TreesOptions say what Trees makes.
type TreesOptions struct {
	N     int   // how many objects
	Pool  int   // how many distinct data files; 0: 500
	Fan   int   // object i refers to itself and to object (i-1)/Fan; 0: to itself only
	Seed  int64 // another seed gives other objects
	Empty bool  // each object an empty file, for when only the directory's entries matter
}

// Trees makes many small invented objects in out, an empty or new directory:
// the load of garbage collection and of optimisation, where the count matters.
// Each is a directory of an executable of its own, a data file that others
// have too, and a symlink.
func Trees(ctx context.Context, o TreesOptions, out string) error {
	if err := makeOutput(out); err != nil {
		return err
	}
	if o.Pool == 0 {
		o.Pool = 500
	}
	rnd := rand.New(rand.NewSource(o.Seed))
	pool := makePool(rnd, o.Pool)
	store := StoreIn(out)
	objects := make([]*object, o.N)
	for i := range objects {
		if err := ctx.Err(); err != nil {
			return err
		}
		var (
			e   = new(object)
			err error
		)
		objects[i] = e
		if e.Path, err = makePath(fmt.Sprintf("tree %d %d", o.Seed, i), fmt.Sprintf("tree-%d", i)); err != nil {
			return err
		}
		e.References = []storepath.Path{e.Path}
		if o.Fan > 0 && i > 0 {
			e.References = storepath.SortUnique(append(e.References, objects[(i-1)/o.Fan].Path))
		}
		dst := filepath.Join(store, e.Path.Base())
		if o.Empty {
			err = os.WriteFile(dst, nil, 0o644)
		} else {
			err = makeTree(dst, e.Path, pool[rnd.Intn(len(pool))])
		}
		if err != nil {
			return err
		}
		if err := nar.Canonicalise(ctx, dst, nar.CanonicaliseOptions{}); err != nil {
			return err
		}
		if e.NarHash, e.NarSize, err = hashTree(ctx, dst); err != nil {
			return err
		}
	}
	return writeRegistration(out, objects)
}

func makeTree(dst string, p storepath.Path, data []byte) error {
	if err := os.Mkdir(dst, 0o755); err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\n# %s\nexec cat \"${0%%/*}/data\"\n", p)
	return errors.Join(
		os.WriteFile(filepath.Join(dst, "tool"), []byte(script), 0o755),
		os.WriteFile(filepath.Join(dst, "data"), data, 0o644),
		os.Symlink("tool", filepath.Join(dst, "run")),
	)
}

// makePool makes n data files of 512 to 4607 bytes that compress somewhat.
func makePool(rnd *rand.Rand, n int) [][]byte {
	const letters = "abcdefgh ijklmno\n"
	pool := make([][]byte, n)
	for i := range pool {
		pool[i] = make([]byte, 512+rnd.Intn(4096))
		for k := range pool[i] {
			pool[i][k] = letters[rnd.Intn(len(letters))]
		}
	}
	return pool
}
