package local

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nar/refscan"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// checkContentAddress compares an unpacked object with the content address that
// its info claims.
func (s *Store) checkContentAddress(ctx context.Context, info *store.PathInfo, path string) error {
	if info.CA.IsZero() {
		return nil
	}
	self := storepath.WithoutSelf(info.Path, info.References).Self
	if info.CA.Method == storepath.Recursive && info.CA.Hash.Algorithm() == nixhash.SHA256 && !self {
		if info.CA.Hash == info.NarHash {
			return nil // which has been compared
		}
	}
	got, err := s.hashTree(ctx, path, storepath.Spec{Method: info.CA.Method, Algorithm: info.CA.Hash.Algorithm()}, info.Path.HashPart())
	if err != nil {
		return err
	}
	if got != info.CA.Hash {
		return fmt.Errorf("ca %w", &store.HashMismatchError{
			What: fmt.Sprintf("importing path '%s'", s.dir.Print(info.Path)), Want: info.CA.Hash, Got: got,
		})
	}
	return nil
}

// hashTree hashes a file or tree as a content address wants it. selfHash is the
// hash part that counts as zeros wherever it occurs, "" for none.
func (s *Store) hashTree(ctx context.Context, path string, spec storepath.Spec, selfHash string) (nixhash.Hash, error) {
	if spec.Method == storepath.Git {
		return s.hashGit(ctx, path, spec.Algorithm)
	}
	if selfHash == "" {
		h := spec.Algorithm.New()
		if err := writeTree(ctx, h, path, spec.Method); err != nil {
			return nixhash.Hash{}, fmt.Errorf("hashing '%s': %w", path, err)
		}
		return nixhash.Sum(spec.Algorithm, h), nil
	}
	m, err := refscan.NewModulo(spec.Algorithm.New(), selfHash)
	if err == nil {
		err = writeTree(ctx, m, path, spec.Method)
	}
	if err != nil {
		return nixhash.Hash{}, fmt.Errorf("hashing '%s': %w", path, err)
	}
	return nixhash.New(spec.Algorithm, m.Sum())
}

// writeTree writes what is hashed: a NAR, or the bytes of one file.
func writeTree(ctx context.Context, w io.Writer, path string, m storepath.Method) error {
	if m == storepath.Recursive {
		return nar.Dump(ctx, w, path)
	}
	return copyFile(w, path)
}

// copyFile reads a regular file. A symlink or directory cannot be addressed flat.
func copyFile(w io.Writer, path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("'%s' is not a regular file, as a flat content address wants", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}

func (s *Store) hashGit(ctx context.Context, path string, algo nixhash.Algorithm) (nixhash.Hash, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(nar.Dump(ctx, w, path)) }()
	defer func() { _ = r.Close() }()
	sum, _, err := nar.GitHash(r, algo.New)
	if err != nil {
		return nixhash.Hash{}, fmt.Errorf("hashing '%s' as a Git object: %w", path, err)
	}
	return nixhash.New(algo, sum)
}
