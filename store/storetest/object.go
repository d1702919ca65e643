// Package storetest has what every store must pass, and objects to try stores
// with.
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Options{Open: func(t *testing.T) store.Store { … }})
//	}
//
// Abilities that the store has not are not tried; Options.Without lists them, so
// that one that gets lost is noticed.
package storetest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Object is a store object with its NAR.
type Object struct {
	Info *store.PathInfo
	NAR  []byte
}

// File makes a content-addressed object of one file that refers to others.
func File(t testing.TB, dir storepath.Dir, name, contents string, refs ...storepath.Path) Object {
	t.Helper()
	return Tree(t, dir, name, map[string]string{"": contents}, refs...)
}

// Tree makes a content-addressed object of files by their names; the name "" alone
// is an object that is a file. A name that begins with "bin/" is executable.
func Tree(t testing.TB, dir storepath.Dir, name string, files map[string]string, refs ...storepath.Path) Object {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	if contents, ok := files[""]; ok {
		writeFile(t, w, nar.Entry{Type: nar.TypeRegular}, contents)
	} else {
		writeTree(t, w, files)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return FromNAR(t, dir, name, b.Bytes(), refs...)
}

// FromNAR makes a content-addressed object of a NAR.
func FromNAR(t testing.TB, dir storepath.Dir, name string, archive []byte, refs ...storepath.Path) Object {
	t.Helper()
	h := nixhash.Of(nixhash.SHA256, string(archive))
	ca := storepath.ContentAddress{Method: storepath.Recursive, Hash: h}
	refs = storepath.SortUnique(append([]storepath.Path(nil), refs...))
	p, err := dir.Make(name, ca, storepath.References{Others: refs})
	if err != nil {
		t.Fatal(err)
	}
	return Object{
		Info: &store.PathInfo{Path: p, NarHash: h, NarSize: uint64(len(archive)), References: refs, CA: ca},
		NAR:  archive,
	}
}

// Plain gives the object a path that does not follow from its contents, as built
// ones have, with one reference to itself if self.
func (o Object) Plain(t testing.TB, dir storepath.Dir, self bool) Object {
	t.Helper()
	info := o.Info.Clone()
	info.CA = storepath.ContentAddress{}
	p, err := dir.Fingerprint("output:out", info.NarHash, info.Path.Name())
	if err != nil {
		t.Fatal(err)
	}
	info.Path = p
	if self {
		info.References = storepath.SortUnique(append(info.References, p))
	}
	return Object{Info: info, NAR: o.NAR}
}

// Reader reads the NAR.
func (o Object) Reader() *bytes.Reader { return bytes.NewReader(o.NAR) }

// Path is the object's path.
func (o Object) Path() storepath.Path { return o.Info.Path }

// Chain makes n objects, each of which refers to the one before.
func Chain(t testing.TB, dir storepath.Dir, n int) []Object {
	t.Helper()
	var out []Object
	for i := range n {
		var refs []storepath.Path
		text := fmt.Sprintf("object %d", i)
		if i > 0 {
			refs = []storepath.Path{out[i-1].Path()}
			text += " on " + dir.Print(refs[0])
		}
		out = append(out, File(t, dir, fmt.Sprintf("chain-%d", i), text, refs...))
	}
	return out
}

// Source gives objects one after the other, as a store.ObjectSource.
type Source struct {
	Objects []Object
	next    int
}

// Next gives the next object.
func (s *Source) Next() (*store.PathInfo, io.Reader, error) {
	if s.next == len(s.Objects) {
		return nil, nil, io.EOF
	}
	o := s.Objects[s.next]
	s.next++
	return o.Info, o.Reader(), nil
}

// Len is how many are still to come.
func (s *Source) Len() int { return len(s.Objects) - s.next }

func writeFile(t testing.TB, w *nar.Writer, e nar.Entry, contents string) {
	t.Helper()
	e.Size = int64(len(contents))
	if err := w.Next(e); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, contents); err != nil {
		t.Fatal(err)
	}
}

// writeTree writes files sorted as an archive wants them, their directories
// before them.
func writeTree(t testing.TB, w *nar.Writer, files map[string]string) {
	t.Helper()
	if err := w.Next(nar.Entry{Type: nar.TypeDirectory}); err != nil {
		t.Fatal(err)
	}
	done := map[string]bool{".": true}
	names := slices.SortedFunc(maps.Keys(files), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
	for _, name := range names {
		parts := strings.Split(name, "/")
		for i := 1; i < len(parts); i++ {
			dir := strings.Join(parts[:i], "/")
			if done[dir] {
				continue
			}
			done[dir] = true
			if err := w.Next(nar.Entry{Path: dir, Type: nar.TypeDirectory}); err != nil {
				t.Fatal(err)
			}
		}
		writeFile(t, w, nar.Entry{Path: name, Type: nar.TypeRegular, Executable: parts[0] == "bin"}, files[name])
	}
}
