package nar

import (
	"cmp"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
)

// A GitMode is the mode of an object in a Git tree.
type GitMode uint32

const (
	GitDirectory  GitMode = 0o040000
	GitRegular    GitMode = 0o100644
	GitExecutable GitMode = 0o100755
	GitSymlink    GitMode = 0o120000
)

// GitHash reads one archive and computes the id of the Git object, a blob or a
// tree, that Nix's content-addressing method "git" makes of it (upstream's
// src/libutil/git.cc). newHash is sha1.New or sha256.New. Unlike in a real Git
// repository, empty directories count. The mode is what the entry for the
// object would have in a tree above it: the id alone does not tell a symlink
// from a file.
//
// It takes exactly the archive's bytes from r (see the package comment) and
// fails as Reader.Next does. Memory is proportional to the entries of the
// directories on one path.
func GitHash(r io.Reader, newHash func() hash.Hash) (id []byte, mode GitMode, err error) {
	g := gitHasher{h: newHash()}
	rd := NewReader(r)
	for {
		if err := rd.next(); err == io.EOF {
			break
		} else if err != nil {
			return nil, 0, err
		}
		e := &rd.cur
		for len(g.open) > e.depth {
			g.closeTree()
		}
		name := string(rd.names[e.depth].bytes())
		if e.typ == TypeDirectory {
			g.open = append(g.open, gitTree{name: name})
			continue
		}
		if err := g.blob(name, e, rd); err != nil {
			return nil, 0, err
		}
	}
	for len(g.open) > 0 {
		g.closeTree()
	}
	return g.root.id, g.root.mode, nil
}

type gitHasher struct {
	h    hash.Hash
	open []gitTree
	root gitEntry
}

type gitTree struct {
	name    string
	entries []gitEntry
}

type gitEntry struct {
	name string
	mode GitMode
	id   []byte
}

// key is what Git sorts by: a directory comes where it would with a slash.
func (e *gitEntry) key() string {
	if e.mode == GitDirectory {
		return e.name + "/"
	}
	return e.name
}

// add puts an object into the tree that is open.
func (g *gitHasher) add(e gitEntry) {
	if len(g.open) == 0 {
		g.root = e
		return
	}
	t := &g.open[len(g.open)-1]
	t.entries = append(t.entries, e)
}

func (g *gitHasher) blob(name string, e *node, r *Reader) error {
	g.h.Reset()
	mode := GitRegular
	if e.typ == TypeSymlink {
		mode = GitSymlink
		fmt.Fprintf(g.h, "blob %d\x00%s", len(e.target), e.target)
	} else {
		if e.executable {
			mode = GitExecutable
		}
		fmt.Fprintf(g.h, "blob %d\x00", e.size)
		if _, err := r.WriteTo(g.h); err != nil {
			return err
		}
	}
	g.add(gitEntry{name, mode, g.h.Sum(nil)})
	return nil
}

func (g *gitHasher) closeTree() {
	t := g.open[len(g.open)-1]
	g.open = g.open[:len(g.open)-1]
	slices.SortFunc(t.entries, func(a, b gitEntry) int { return cmp.Compare(a.key(), b.key()) })
	var b []byte
	for _, e := range t.entries {
		b = strconv.AppendUint(b, uint64(e.mode), 8)
		b = append(b, ' ')
		b = append(b, e.name...)
		b = append(b, 0)
		b = append(b, e.id...)
	}
	g.h.Reset()
	fmt.Fprintf(g.h, "tree %d\x00", len(b))
	g.h.Write(b)
	g.add(gitEntry{t.name, GitDirectory, g.h.Sum(nil)})
}
