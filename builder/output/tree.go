package output

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nar/refscan"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// rewrites maps hash parts to those that are to stand in their place.
type rewrites map[string]string

// tree is an object on disk as it will be once the hash parts in it are rewritten.
type tree struct {
	path     string
	rewrites rewrites
}

// copyBuffer is the buffer between reading and unpacking a tree.
const copyBuffer = 128 << 10

// dump writes the NAR.
func (t tree) dump(ctx context.Context, w io.Writer) error {
	return t.rewrite(w, func(w io.Writer) error { return nar.Dump(ctx, w, t.path) })
}

// rewrite lets what f writes pass to w, rewritten.
func (t tree) rewrite(w io.Writer, f func(io.Writer) error) error {
	if len(t.rewrites) == 0 {
		return f(w)
	}
	r, err := refscan.NewRewriter(w, t.rewrites)
	if err != nil {
		return err
	}
	if err := f(r); err != nil {
		return err
	}
	return r.Close()
}

// flat writes the bytes of the file that the tree is.
func (t tree) flat(w io.Writer) error {
	return t.rewrite(w, func(w io.Writer) error {
		f, err := os.Open(t.path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, err = io.Copy(w, f)
		return err
	})
}

// hash is what the tree is addressed by, if the hash part self counts as zeros.
func (t tree) hash(ctx context.Context, spec storepath.Spec, self string) (nixhash.Hash, error) {
	if spec.Method == storepath.Git {
		return t.gitHash(ctx, spec.Algorithm)
	}
	m, err := refscan.NewModulo(spec.Algorithm.New(), self)
	if err != nil {
		return nixhash.Hash{}, err
	}
	if spec.Method == storepath.Recursive {
		err = t.dump(ctx, m)
	} else {
		err = t.flat(m)
	}
	if err != nil {
		return nixhash.Hash{}, fmt.Errorf("hashing an output: %w", err)
	}
	return nixhash.New(spec.Algorithm, m.Sum())
}

func (t tree) gitHash(ctx context.Context, algo nixhash.Algorithm) (nixhash.Hash, error) {
	var sum []byte
	err := t.pipe(ctx, nil, func(r io.Reader) (err error) {
		sum, _, err = nar.GitHash(r, algo.New)
		return err
	})
	if err != nil {
		return nixhash.Hash{}, fmt.Errorf("hashing an output as a Git object: %w", err)
	}
	return nixhash.New(algo, sum)
}

// copyTo unpacks the tree at path, with canonical metadata, and lets its NAR pass
// by w.
func (t tree) copyTo(ctx context.Context, path string, w io.Writer) error {
	return t.pipe(ctx, w, func(r io.Reader) error {
		_, err := nar.Restore(ctx, r, path, nar.RestoreOptions{})
		return err
	})
}

// pipe has f read the NAR, and w, if it is not nil, too.
func (t tree) pipe(ctx context.Context, w io.Writer, f func(io.Reader) error) error {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var to io.Writer = pw
		if w != nil {
			to = io.MultiWriter(w, pw)
		}
		pw.CloseWithError(t.dump(ctx, to))
	}()
	err := f(bufio.NewReaderSize(pr, copyBuffer))
	pr.CloseWithError(err) // of io.EOF if it is nil: then all has been read
	<-done
	return err
}
