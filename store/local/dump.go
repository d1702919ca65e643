package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// memorySize is how much of a dump is held in memory before anything is written:
// most sources that are added are small, and valid already.
const memorySize = 1 << 20

// AddDump adds what is addressed by its contents, see [store.DumpAdder].
func (s *Store) AddDump(ctx context.Context, d store.Dump, o store.AddOptions) (*store.PathInfo, error) {
	if err := s.checkDump(d); err != nil {
		return nil, err
	}
	b, err := s.newBatch(ctx, o)
	if err != nil {
		return nil, err
	}
	defer b.close(ctx)
	info, err := b.addDump(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("adding '%s' to the store: %w", d.Name, err)
	}
	if err := b.flush(ctx); err != nil {
		return nil, err
	}
	// What was valid before may know more than we do: signatures, a deriver.
	return store.PathInfoOf(ctx, s, info.Path)
}

func (s *Store) checkDump(d store.Dump) error {
	if err := storepath.CheckName(d.Name); err != nil {
		return err
	}
	if d.Spec.Method == storepath.Git && !s.opts.GitHashing {
		return &store.UnsupportedError{Op: "adding by Git hash", Store: s.uri, Why: "experimental Nix feature 'git-hashing' is disabled; add '--extra-experimental-features git-hashing' to enable it"}
	}
	if !d.NAR && (d.Spec.Method == storepath.Recursive || d.Spec.Method == storepath.Git) {
		return errors.New("a tree is added as a NAR")
	}
	return nil
}

// addDump leaves the object in the batch, unless it is valid already.
func (b *addBatch) addDump(ctx context.Context, d store.Dump) (*store.PathInfo, error) {
	head, rest, err := readHead(d)
	if err != nil {
		return nil, err
	}
	contents := io.Reader(bytes.NewReader(head))
	if rest != nil {
		defer func() { _ = rest.Close() }()
		contents = io.MultiReader(contents, rest)
	}
	var path string // of the unpacked object
	var info *store.PathInfo
	if rest == nil && matches(d) {
		// The whole of it is in memory: its path is known before anything is written.
		info, err = b.s.describe(d, head)
	} else {
		info, path, err = b.spool(ctx, d, contents)
	}
	if err != nil {
		return nil, err
	}
	if err := b.roots.Add(ctx, []storepath.Path{info.Path}); err != nil {
		return nil, err
	}
	if need, err := b.needed(ctx, info.Path); err != nil || !need {
		return info, err
	}
	lock, err := b.s.lockPath(ctx, info.Path)
	if err != nil {
		return nil, err
	}
	need, err := b.needed(ctx, info.Path)
	if err == nil && need {
		err = b.s.makeRoom(ctx)
	}
	if err == nil && need && path == "" {
		path, err = b.write(ctx, d, bytes.NewReader(head))
	}
	if err == nil && need {
		err = b.complete(ctx, info, path)
	}
	if err != nil || !need {
		unlock(lock)
		return info, err
	}
	b.items = append(b.items, addItem{info: info, path: path, lock: lock})
	return info, nil
}

// matches tells whether the bytes of the dump are those that the address hashes.
func matches(d store.Dump) bool {
	if d.NAR {
		return d.Spec.Method == storepath.Recursive
	}
	return d.Spec.Method == storepath.Flat || d.Spec.Method == storepath.Text
}

// readHead reads the dump up to memorySize. rest is nil if that was all of it,
// else the caller closes it.
func readHead(d store.Dump) (head []byte, rest io.ReadCloser, err error) {
	rest = io.NopCloser(d.Contents)
	if d.NAR {
		// A NAR says itself where it ends: it is taken apart as it comes, to stop there.
		rest = nar.NewStream(d.Contents)
	}
	var buf bytes.Buffer
	switch _, err := io.CopyN(&buf, rest, memorySize); {
	case err == nil:
		return buf.Bytes(), rest, nil
	case errors.Is(err, io.EOF):
		return buf.Bytes(), nil, rest.Close()
	default:
		return nil, nil, errors.Join(err, rest.Close())
	}
}

// describe computes the info of contents that are in memory, but for the NAR.
func (s *Store) describe(d store.Dump, contents []byte) (*store.PathInfo, error) {
	h := d.Spec.Algorithm.New()
	_, _ = h.Write(contents) // never fails
	return s.describeHash(d, nixhash.Sum(d.Spec.Algorithm, h))
}

func (s *Store) describeHash(d store.Dump, h nixhash.Hash) (*store.PathInfo, error) {
	ca := storepath.ContentAddress{Method: d.Spec.Method, Hash: h}
	p, err := s.dir.Make(d.Name, ca, storepath.References{Others: d.References})
	if err != nil {
		return nil, err
	}
	refs := storepath.SortUnique(append([]storepath.Path(nil), d.References...))
	return &store.PathInfo{Path: p, CA: ca, References: refs}, nil
}

// spool writes the dump out, hashing it on the way, and describes it.
func (b *addBatch) spool(ctx context.Context, d store.Dump, contents io.Reader) (*store.PathInfo, string, error) {
	h := d.Spec.Algorithm.New()
	path, err := b.write(ctx, d, io.TeeReader(contents, h))
	if err != nil {
		return nil, "", err
	}
	sum := nixhash.Hash{}
	if matches(d) {
		sum = nixhash.Sum(d.Spec.Algorithm, h)
	} else if sum, err = b.s.hashTree(ctx, path, d.Spec, ""); err != nil {
		return nil, "", err
	}
	info, err := b.s.describeHash(d, sum)
	return info, path, err
}

// write makes a file or tree of the dump.
func (b *addBatch) write(ctx context.Context, d store.Dump, contents io.Reader) (string, error) {
	name, err := b.place(ctx)
	if err != nil {
		return "", err
	}
	path := b.tmp.scratch.At(name)
	if d.NAR {
		_, err := b.tmp.scratch.Restore(ctx, bufio.NewReaderSize(contents, readSize), name)
		return path, err
	}
	return path, b.writeFile(path, contents)
}

func (b *addBatch) writeFile(path string, contents io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, contents)
	if err == nil && b.s.opts.FsyncStorePaths {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return nar.Canonicalise(context.Background(), path, nar.CanonicaliseOptions{})
}

// complete fills in the hash and size of the NAR of an object on disk.
func (b *addBatch) complete(ctx context.Context, info *store.PathInfo, path string) error {
	h := nixhash.SHA256.New()
	n := &counter{w: h}
	if err := nar.Dump(ctx, n, path); err != nil {
		return err
	}
	info.NarHash, info.NarSize = nixhash.Sum(nixhash.SHA256, h), n.n
	return nil
}

// counter counts what passes.
type counter struct {
	w io.Writer
	n uint64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += uint64(n) //nolint:gosec // not negative
	return n, err
}
