package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// addDump adds d to the store of the connection.
func (s *session) addDump(ctx context.Context, d store.Dump, o store.AddOptions) (*store.PathInfo, error) {
	a, err := store.Need[store.DumpAdder](s.view, "addToStoreFromDump")
	if err != nil {
		return nil, err
	}
	o.Roots = s.tempRoots()
	return a.AddDump(ctx, d, o)
}

func serveAddToStore(ctx context.Context, s *session) error {
	if s.in.version < v1+25 {
		return serveOldAddToStore(ctx, s)
	}
	d := store.Dump{Name: s.in.TextMax(maxPath)}
	var err error
	if d.Spec, err = storepath.ParseSpec(s.in.TextMax(maxPath)); err != nil {
		s.in.reject(err)
	}
	d.NAR = d.Spec.Method == storepath.Recursive || d.Spec.Method == storepath.Git
	d.References = s.in.paths()
	o := store.AddOptions{Repair: s.in.Bool()}
	var info *store.PathInfo
	err = s.framed(func(r io.Reader) error {
		d.Contents = r
		if d.NAR {
			d.Contents = bufio.NewReaderSize(r, narBuffer)
		}
		info, err = s.addDump(ctx, d, o)
		return err
	})
	if err != nil {
		return err
	}
	s.stop()
	s.out.path(info.Path)
	s.out.info(info)
	return nil
}

// serveOldAddToStore: before 1.25 a NAR follows without frames, whatever the
// method.
func serveOldAddToStore(ctx context.Context, s *session) error {
	d := store.Dump{Name: s.in.TextMax(maxPath), NAR: true}
	fixed := s.in.Bool()
	recursive := s.in.Uint64()
	algorithm := s.in.TextMax(maxPath)
	var err error
	switch {
	case recursive > 1:
		s.in.Fail(fmt.Errorf("unsupported FileIngestionMethod with value of %d", recursive))
	case !fixed:
		d.Spec = storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}
	default:
		d.Spec.Method = storepath.Flat
		if recursive == 1 {
			d.Spec.Method = storepath.Recursive
		}
		if d.Spec.Algorithm, err = nixhash.ParseAlgorithm(algorithm); err != nil {
			s.in.reject(err)
		}
	}
	var info *store.PathInfo
	err = s.inline(func(r io.Reader) error {
		d.Contents = r
		info, err = s.addDump(ctx, d, store.AddOptions{})
		return err
	})
	if err != nil {
		return err
	}
	s.stop()
	s.out.path(info.Path)
	return nil
}

func serveAddTextToStore(ctx context.Context, s *session) error {
	d := store.Dump{
		Name:     s.in.TextMax(maxPath),
		Spec:     storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
		Contents: strings.NewReader(s.in.Text()),
	}
	d.References = s.in.paths()
	if err := s.start(); err != nil {
		return err
	}
	info, err := s.addDump(ctx, d, store.AddOptions{})
	if err != nil {
		return err
	}
	s.stop()
	s.out.path(info.Path)
	return nil
}

// AddDump implements store.DumpAdder.
func (c *Client) AddDump(ctx context.Context, d store.Dump, o store.AddOptions) (*store.PathInfo, error) {
	tree := d.Spec.Method == storepath.Recursive || d.Spec.Method == storepath.Git
	if tree && !d.NAR {
		return nil, &store.UnsupportedError{Op: "adding '" + d.Name + "' by its " + d.Spec.Method.String() + " hash", Store: c.o.URI,
			Why: "its contents do not come as a NAR"}
	}
	var info *store.PathInfo
	var err error
	if c.proto < v1+25 {
		info, err = c.addOldDump(ctx, d, o)
	} else {
		info, err = c.addFramedDump(ctx, d, o)
	}
	if err != nil {
		return nil, err
	}
	// The daemon keeps it alive for now, as the connection's own.
	return info, keep(ctx, o, info.Path)
}

func (c *Client) addFramedDump(ctx context.Context, d store.Dump, o store.AddOptions) (info *store.PathInfo, err error) {
	err = c.with(ctx, opAddToStore, func(k *conn) error {
		k.out.Uint64(opAddToStore)
		k.out.Text(d.Name)
		k.out.Text(d.Spec.String())
		k.out.paths(storepath.SortUnique(slices.Clone(d.References)))
		k.out.Bool(o.Repair)
		if err := k.upload(ctx, true, func(w io.Writer) error { return sendDump(w, d) }); err != nil {
			return err
		}
		p := k.in.path()
		info = k.in.info(p)
		return k.in.end()
	})
	return info, err
}

// sendDump writes contents in the form that the method asks for.
func sendDump(w io.Writer, d store.Dump) error {
	tree := d.Spec.Method == storepath.Recursive || d.Spec.Method == storepath.Git
	if !d.NAR {
		_, err := io.Copy(w, d.Contents)
		return err
	}
	if tree {
		_, err := nar.Copy(w, d.Contents)
		return err
	}
	r := nar.NewReader(d.Contents)
	if e, err := r.Next(); err != nil {
		return err
	} else if e.Type != nar.TypeRegular {
		return fmt.Errorf("cannot add '%s' by its %s hash: regular file expected", d.Name, d.Spec.Method)
	}
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// addOldDump: a daemon before 1.25 takes texts in one piece, and NARs without
// frames.
func (c *Client) addOldDump(ctx context.Context, d store.Dump, o store.AddOptions) (*store.PathInfo, error) {
	if o.Repair || d.Spec.Method == storepath.Git || d.Spec.Method != storepath.Text && len(d.References) > 0 {
		return nil, c.tooOld("adding '"+d.Name+"' in this way", v1+25)
	}
	var p storepath.Path
	var err error
	if d.Spec.Method == storepath.Text {
		p, err = c.addOldText(ctx, d)
	} else {
		p, err = c.addOldTree(ctx, d)
	}
	if err != nil {
		return nil, err
	}
	return store.PathInfoOf(ctx, c, p)
}

func (c *Client) addOldText(ctx context.Context, d store.Dump) (p storepath.Path, err error) {
	var text strings.Builder
	if err := sendDump(&text, d); err != nil {
		return p, err
	}
	err = c.ask(ctx, opAddTextToStore, func(e *encoder) {
		e.Text(d.Name)
		e.Text(text.String())
		e.paths(storepath.SortUnique(slices.Clone(d.References)))
	}, func(d *decoder) { p = d.path() })
	return p, err
}

func (c *Client) addOldTree(ctx context.Context, d store.Dump) (p storepath.Path, err error) {
	fill := func(w io.Writer) error {
		_, err := nar.Copy(w, d.Contents)
		return err
	}
	if !d.NAR {
		text, err := io.ReadAll(d.Contents) // a NAR begins with the size
		if err != nil {
			return p, err
		}
		fill = func(w io.Writer) error { return writeFile(w, text) }
	}
	recursive := d.Spec.Method == storepath.Recursive
	err = c.with(ctx, opAddToStore, func(k *conn) error {
		k.out.Uint64(opAddToStore)
		k.out.Text(d.Name)
		k.out.Bool(!recursive || d.Spec.Algorithm != nixhash.SHA256)
		k.out.Bool(recursive)
		k.out.Text(d.Spec.Algorithm.String())
		if err := k.upload(ctx, false, fill); err != nil {
			return err
		}
		p = k.in.path()
		return k.in.end()
	})
	return p, err
}

// writeFile writes the NAR of a file.
func writeFile(w io.Writer, text []byte) error {
	n := nar.NewWriter(w)
	if err := n.Next(nar.Entry{Type: nar.TypeRegular, Size: int64(len(text))}); err != nil {
		return err
	}
	if _, err := n.Write(text); err != nil {
		return err
	}
	return n.Close()
}
