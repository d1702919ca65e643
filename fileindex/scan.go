package fileindex

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nar"
)

// Scan reads a NAR to its end and finds its contents. It takes exactly the NAR's bytes from r, and fails as
// a [nar.Reader] does. cut, if not nil, is called with each offset at which the NAR is best cut into blocks, in
// rising order, before r is read up to there, or a few bytes later.
func Scan(r io.Reader, cut func(off int64)) (*Contents, error) {
	if cut == nil {
		cut = func(int64) {}
	}
	s := &scanner{r: nar.NewReader(r), cutter: cutter{cut: cut}}
	for {
		e, err := s.r.Next()
		if errors.Is(err, io.EOF) {
			return s.contents()
		}
		if err != nil {
			return nil, err
		}
		if err := s.entry(&e); err != nil {
			return nil, err
		}
	}
}

// scanned is a node as it was found in a NAR.
type scanned struct {
	fusefs.Node
	names   []string
	entries []*scanned
	digests []byte
}

type scanner struct {
	r      *nar.Reader
	cutter cutter
	open   []*scanned // from the root down to the present entry
	buf    []byte
}

func (s *scanner) entry(e *nar.Entry) error {
	n := &scanned{}
	switch e.Type {
	case nar.TypeDirectory:
		n.Kind = fusefs.Directory
	case nar.TypeSymlink:
		n.Node = fusefs.Node{Kind: fusefs.Symlink, Size: int64(len(e.Target)), Target: e.Target}
	default:
		n.Node = fusefs.Node{Kind: fusefs.Regular, Size: e.Size}
		if e.Executable {
			n.Kind = fusefs.Executable
		}
	}
	s.place(n, e.Path)
	if e.Type != nar.TypeRegular {
		return nil
	}
	s.cutter.file(e.Offset, e.Size)
	return s.digest(n)
}

// place puts a node where its path says.
func (s *scanner) place(n *scanned, path string) {
	if path == "" {
		s.open = append(s.open, n)
		return
	}
	depth := strings.Count(path, "/") + 1
	dir := s.open[depth-1]
	dir.names = append(dir.names, path[strings.LastIndexByte(path, '/')+1:])
	dir.entries = append(dir.entries, n)
	s.open = append(s.open[:depth], n)
}

// digest reads the contents of a file.
func (s *scanner) digest(n *scanned) error {
	if n.Size > 0 && s.buf == nil {
		s.buf = make([]byte, ChunkSize)
	}
	for left := n.Size; left > 0; {
		b := s.buf[:min(left, ChunkSize)]
		if _, err := io.ReadFull(s.r, b); err != nil {
			return err
		}
		d := sha256.Sum256(b)
		n.digests = append(n.digests, d[:]...)
		left -= int64(len(b))
	}
	return nil
}

// contents puts together what was found.
func (s *scanner) contents() (*Contents, error) {
	root := s.open[0]
	t, err := fusefs.BuildTree(root, func(n *scanned) fusefs.Node { return n.Node }, func(n *scanned) iter.Seq2[string, *scanned] {
		return func(yield func(string, *scanned) bool) {
			for i, e := range n.entries {
				if !yield(n.names[i], e) {
					return
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	// The nodes of a tree come in this order.
	order := make([]*scanned, 1, t.Len())
	order[0] = root
	var digests []byte
	for i := 0; i < len(order); i++ {
		order = append(order, order[i].entries...)
		digests = append(digests, order[i].digests...)
	}
	c, err := newContents(t, digests)
	if err != nil {
		return nil, err
	}
	if size := uint64(s.r.Offset()); c.narSize != size {
		return nil, fmt.Errorf("a NAR of %d bytes was taken for one of %d", size, c.narSize)
	}
	return c, nil
}
