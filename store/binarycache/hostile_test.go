package binarycache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/internal/fault"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/objstore/objstoretest"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// cacheOf makes a cache with one object in it, whose narinfo is then spoilt.
func cacheOf(t *testing.T, m compress.Method, spoil func(*narinfo.NarInfo)) (*objstore.Memory, storetest.Object, *narinfo.NarInfo) {
	t.Helper()
	objects := objstore.NewMemory()
	s := open(t, objects, func(o *binarycache.Options) { o.Compression = m })
	o := storetest.Tree(t, s.Dir(), "object", map[string]string{"a": strings.Repeat("some text ", 5000), "b": "b"}).Plain(t, s.Dir(), false)
	if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	name := o.Path().HashPart() + ".narinfo"
	i, err := narinfo.Parse(s.Dir(), name, []byte(objstoretest.Get(t, objects, name)))
	if err != nil {
		t.Fatal(err)
	}
	if spoil != nil {
		spoil(i)
		text, err := i.Text(s.Dir())
		if err != nil {
			t.Fatal(err)
		}
		objstoretest.Put(t, objects, name, string(text))
	}
	return objects, o, i
}

// A cache that lies is told so, by name, and gives nothing that was not promised.
func TestLies(t *testing.T) {
	other := nixhash.Of(nixhash.SHA256, "other")
	for _, m := range []compress.Method{compress.None, compress.XZ, compress.Zstd, compress.Gzip, compress.Bzip2, compress.Brotli} {
		for name, c := range map[string]struct {
			spoil func(*narinfo.NarInfo)
			file  string // that is at fault; "": the NAR
			why   string
		}{
			"NarHash":             {func(i *narinfo.NarInfo) { i.NarHash, i.FileHash = other, nixhash.Hash{} }, "", "hash mismatch of the NAR"},
			"FileHash":            {func(i *narinfo.NarInfo) { i.FileHash = other }, "", "hash mismatch of the file"},
			"NarSize too large":   {func(i *narinfo.NarInfo) { i.NarSize += 8; i.FileHash = nixhash.Hash{} }, "", "ends after"},
			"NarSize too small":   {func(i *narinfo.NarInfo) { i.NarSize -= 8; i.FileHash = nixhash.Hash{} }, "", "longer than"},
			"FileSize too large":  {func(i *narinfo.NarInfo) { i.FileSize++ }, "", "its narinfo says"},
			"FileSize too small":  {func(i *narinfo.NarInfo) { i.FileSize-- }, "", "its narinfo says"},
			"compression unknown": {func(i *narinfo.NarInfo) { i.Compression = "lzip" }, ".narinfo", "'lzip' is not supported"},
			"compression made up": {func(i *narinfo.NarInfo) { i.Compression = "magic" }, ".narinfo", "'magic'"},
			"traversal":           {func(i *narinfo.NarInfo) { i.URL = "../../etc/passwd" }, ".narinfo", "leads out of the cache"},
			"hidden traversal":    {func(i *narinfo.NarInfo) { i.URL = "nar/%2e%2e/%2e%2e/etc/passwd" }, ".narinfo", "leads out of the cache"},
			"absolute":            {func(i *narinfo.NarInfo) { i.URL = "/etc/passwd" }, ".narinfo", "not relative"},
			"another server":      {func(i *narinfo.NarInfo) { i.URL = "https://evil.example.org/nar" }, ".narinfo", "not relative"},
			"no NAR":              {func(i *narinfo.NarInfo) { i.URL = "nar/none.nar" }, "nar/none.nar", "gone"},
			"not a NAR":           {func(i *narinfo.NarInfo) { i.URL = "nix-cache-info" }, "nix-cache-info", "its narinfo says"},
			"another path":        {func(i *narinfo.NarInfo) { i.Path = node(t, "another") }, ".narinfo", "about another store path"},
		} {
			objects, o, info := cacheOf(t, m, nil)
			name1 := o.Path().HashPart() + ".narinfo"
			url := info.URL
			c.spoil(info)
			if m == compress.None && (name == "FileHash" || strings.HasPrefix(name, "FileSize")) {
				c.file, c.why = ".narinfo", "is not Nar"
			}
			text, err := info.Text(storepath.DefaultDir)
			if err != nil {
				t.Fatal(err)
			}
			objstoretest.Put(t, objects, name1, string(text))
			s := open(t, objects, func(o *binarycache.Options) { o.TTL = diskcache.DefaultTTL })
			var b bytes.Buffer
			err = s.NarFromPath(t.Context(), o.Path(), &b)
			file := c.file
			switch file {
			case "":
				file = url
			case ".narinfo":
				file = name1
			}
			bad, ok := errors.AsType[*binarycache.FileError](err)
			if !ok || !errors.Is(err, binarycache.ErrBadFile) {
				t.Errorf("%s, %s: %v", m, name, err)
				continue
			}
			if gone := name == "no NAR"; errors.Is(err, store.ErrNotValid) != gone || errors.Is(err, binarycache.ErrGone) != gone {
				t.Errorf("%s, %s: gone or not: %v", m, name, err)
			}
			if bad.Cache != s.URI() || bad.File != file || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%s, %s: %v; want file '%s', %q", m, name, err, file, c.why)
			}
			// Of a NAR that is shorter than was said all may have come before that shows.
			if uint64(b.Len()) >= o.Info.NarSize && name != "NarSize too large" {
				t.Errorf("%s, %s: all %d bytes were given out", m, name, b.Len())
			}
			// When the narinfo is right again nothing of that is remembered.
			if err := repair(t, objects, o, m); err != nil {
				t.Errorf("%s, %s: %v", m, name, err)
				continue
			}
			if err := s.NarFromPath(t.Context(), o.Path(), io.Discard); err != nil {
				t.Errorf("%s, %s: repaired, and then: %v", m, name, err)
			}
		}
	}
}

// Who says what he finds gets the bytes of a lie, for him to compare, and when he has said
// so nothing of it is remembered. Who says nothing does not get the last of them.
func TestLiesToWhoCompares(t *testing.T) {
	objects, o, info := cacheOf(t, compress.None, nil)
	info.NarHash, info.FileHash = nixhash.Of(nixhash.SHA256, "other"), nixhash.Hash{}
	text, err := info.Text(storepath.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	objstoretest.Put(t, objects, o.Path().HashPart()+".narinfo", string(text))
	s := open(t, objects, func(o *binarycache.Options) { o.TTL = diskcache.DefaultTTL })
	read := func(ctx context.Context) error {
		r, err := s.OpenNar(ctx, o.Path())
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		return errors.Join(err, r.Close())
	}
	if err := read(store.Verifying(t.Context())); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("who says nothing: %v", err)
	}
	aloud, wrong := store.VerifyingAloud(t.Context())
	if err := read(aloud); err != nil {
		t.Error(err)
	}
	if err := repair(t, objects, o, compress.None); err != nil {
		t.Fatal(err)
	}
	wrong()
	if err := read(t.Context()); err != nil {
		t.Errorf("repaired, and then: %v", err)
	}
}

// repair writes an object again.
func repair(t *testing.T, objects objstore.Store, o storetest.Object, m compress.Method) error {
	t.Helper()
	s := open(t, objects, func(o *binarycache.Options) { o.Compression = m })
	return s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{Repair: true})
}

// node makes a path of no object.
func node(t *testing.T, name string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase("00000000000000000000000000000000-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What is cut, or goes on after its end, is noticed in every method.
func TestSpoiltNARs(t *testing.T) {
	for _, m := range compress.Methods {
		objects, o, info := cacheOf(t, m, func(i *narinfo.NarInfo) { i.FileHash, i.FileSize = nixhash.Hash{}, 0 })
		whole := objstoretest.Get(t, objects, info.URL)
		s := open(t, objects, nil)
		for name, text := range map[string]string{
			"empty":    "",
			"cut":      whole[:len(whole)-1],
			"half":     whole[:len(whole)/2],
			"trailing": whole + "x",
			"garbage":  strings.Repeat("garbage", 100),
		} {
			objstoretest.Put(t, objects, info.URL, text)
			if err := s.NarFromPath(t.Context(), o.Path(), io.Discard); !errors.Is(err, binarycache.ErrBadFile) || !strings.Contains(err.Error(), info.URL) {
				t.Errorf("%s, %s: %v", m, name, err)
			}
		}
		objstoretest.Put(t, objects, info.URL, whole)
		if err := s.NarFromPath(t.Context(), o.Path(), io.Discard); err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
}

// A few kilobytes that would become gigabytes do not.
func TestBomb(t *testing.T) {
	objects, o, info := cacheOf(t, compress.Zstd, func(i *narinfo.NarInfo) { i.FileHash, i.FileSize = nixhash.Hash{}, 0 })
	var b bytes.Buffer
	w, err := compress.NewWriter(t.Context(), compress.Zstd, &b, compress.Options{Level: compress.DefaultLevel})
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 512 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	objstoretest.Put(t, objects, info.URL, b.String())
	out := &counter{}
	err = open(t, objects, nil).NarFromPath(t.Context(), o.Path(), out)
	if !errors.Is(err, binarycache.ErrBadFile) || out.n >= o.Info.NarSize {
		t.Errorf("%d bytes came out: %v", out.n, err)
	}
}

type counter struct{ n uint64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += uint64(len(p))
	return len(p), nil
}

// A stream that never ends is not read for ever, though nothing comes out of it.
func TestEndlessFile(t *testing.T) {
	memory, o, info := cacheOf(t, compress.Gzip, func(i *narinfo.NarInfo) { i.FileHash, i.FileSize = nixhash.Hash{}, 0 })
	var empty bytes.Buffer
	if w, err := compress.NewWriter(t.Context(), compress.Gzip, &empty, compress.Options{Level: compress.DefaultLevel}); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	objects := &fault.Objects{Store: memory, Body: func(name string, body io.ReadCloser) io.ReadCloser {
		if name != info.URL {
			return body
		}
		return io.NopCloser(&endless{piece: empty.Bytes()})
	}}
	err := open(t, objects, nil).NarFromPath(t.Context(), o.Path(), io.Discard)
	if !errors.Is(err, binarycache.ErrBadFile) || !strings.Contains(err.Error(), "has more than") {
		t.Errorf("%v", err)
	}
}

// endless gives the same piece again and again.
type endless struct {
	piece []byte
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.piece[e.at:])
	e.at = (e.at + n) % len(e.piece)
	return n, nil
}

// One file that makes no sense does not hide the others.
func TestOneBadNarinfo(t *testing.T) {
	objects := objstore.NewMemory()
	made := write(t, open(t, objects, nil))
	bad := made[2].Path()
	for name, text := range map[string]string{
		"empty":     "",
		"garbage":   "<html>504</html>",
		"too large": strings.Repeat("X: y\n", narinfo.MaxSize/5+1),
		"reference": strings.Replace(objstoretest.Get(t, objects, bad.HashPart()+".narinfo"), "References: ", "References: ../../../etc ", 1),
	} {
		objstoretest.Put(t, objects, bad.HashPart()+".narinfo", text)
		s := open(t, objects, nil)
		var paths []storepath.Path
		for _, o := range made {
			paths = append(paths, o.Path())
		}
		infos, err := s.PathInfos(t.Context(), paths)
		partial, ok := errors.AsType[*store.PartialError](err)
		if !ok || len(partial.Errs) != 1 || !errors.Is(partial.Errs[bad], binarycache.ErrBadFile) || !strings.Contains(err.Error(), bad.HashPart()+".narinfo") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, p := range paths {
			if (infos[i] == nil) != (p == bad) {
				t.Errorf("%s: %s: %+v", name, p, infos[i])
			}
		}
		if _, err := s.ValidPaths(t.Context(), []storepath.Path{bad}); err == nil {
			t.Errorf("%s: not valid rather than not known", name)
		}
		for _, err := range s.AllPaths(t.Context()) {
			if err != nil && !errors.Is(err, binarycache.ErrBadFile) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Another object with the same hash part is not the one that was asked for.
func TestOtherName(t *testing.T) {
	objects, o, _ := cacheOf(t, compress.None, nil)
	s := open(t, objects, nil)
	other, err := storepath.ParseBase(o.Path().HashPart() + "-another")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{other, o.Path()}); err != nil || len(v) != 1 || v[0] != o.Path() {
		t.Errorf("%v, %v", v, err)
	}
	if err := s.NarFromPath(t.Context(), other, io.Discard); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("%v", err)
	}
}

// A cache that cannot be asked is an error, and not an empty one.
func TestCacheFails(t *testing.T) {
	memory, o, info := cacheOf(t, compress.XZ, nil)
	down := errors.New("server is on fire")
	objects := &fault.Objects{Store: memory}
	s := open(t, objects, nil)
	for _, name := range []string{"nix-cache-info", o.Path().HashPart() + ".narinfo", info.URL} {
		objects.Before = func(_ context.Context, _, n string) error {
			if n == name {
				return down
			}
			return nil
		}
		err := s.NarFromPath(t.Context(), o.Path(), io.Discard)
		if !errors.Is(err, down) || errors.Is(err, binarycache.ErrBadFile) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), s.URI()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Forbidden means missing, but for what every cache has.
	objects.Before = func(_ context.Context, _, n string) error {
		if strings.HasSuffix(n, ".narinfo") {
			return objstore.ErrForbidden
		}
		return nil
	}
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{o.Path()}); err != nil || len(v) != 0 {
		t.Errorf("%v, %v", v, err)
	}
	objects.Before = func(context.Context, string, string) error { return objstore.ErrForbidden }
	if _, err := open(t, objects, nil).ValidPaths(t.Context(), []storepath.Path{o.Path()}); !errors.Is(err, objstore.ErrForbidden) {
		t.Errorf("%v", err)
	}
	// And a body that breaks off is not a lie.
	objects.Before = nil
	objects.Body = func(name string, body io.ReadCloser) io.ReadCloser {
		if name != info.URL {
			return body
		}
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(body, 20), failing{down}), body}
	}
	if err := s.NarFromPath(t.Context(), o.Path(), io.Discard); !errors.Is(err, down) || errors.Is(err, binarycache.ErrBadFile) {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
