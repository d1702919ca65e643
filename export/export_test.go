package export

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

const dir = storepath.DefaultDir

// golden is what `nix-store --export` of Nix 2.34.8 wrote: a derivation and what
// it refers to.
func golden(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/closure.export")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

type object struct {
	info *store.PathInfo
	nar  []byte
}

func readAll(r *Reader) ([]object, error) {
	var all []object
	for {
		var nar bytes.Buffer
		info, err := r.Next(&nar)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, object{info, nar.Bytes()})
	}
}

func TestGolden(t *testing.T) {
	data := golden(t)
	for name, src := range map[string]io.Reader{"whole": bytes.NewReader(data), "in halves": iotest.HalfReader(bytes.NewReader(data)), "byte by byte": iotest.OneByteReader(bytes.NewReader(data))} {
		objects, err := readAll(NewReader(src, dir))
		if err != nil || len(objects) != 4 {
			t.Fatalf("%s: %d objects, %v", name, len(objects), err)
		}
		last := objects[3].info
		if last.Path.Name() != "lib-1.2.drv" || len(last.References) != 3 || !last.Deriver.IsZero() || last.NarSize != 1176 ||
			last.NarHash.Text(nixhash.Nix32) != "sha256:19641vj4cardz3f9qi8mib9fpw3768g6d4wbvf1jxg11xv8ncmbv" {
			t.Errorf("%s: %+v", name, last)
		}
		var back bytes.Buffer
		w := NewWriter(&back, dir)
		for _, o := range objects {
			if err := w.Add(o.info, func(w io.Writer) error { _, err := w.Write(o.nar); return err }); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil || !bytes.Equal(back.Bytes(), data) {
			t.Errorf("%s: written again: %v, %d bytes, want %d", name, err, back.Len(), len(data))
		}
	}
}

func TestFollowingBytesStay(t *testing.T) {
	br := bufio.NewReaderSize(strings.NewReader(string(golden(t))+"what follows"), bufferSize)
	if _, err := readAll(NewReader(br, dir)); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(br); err != nil || string(rest) != "what follows" {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestTruncation(t *testing.T) {
	data := golden(t)
	for n := range data {
		_, err := readAll(NewReader(bytes.NewReader(data[:n]), dir))
		if !errors.Is(err, ErrFormat) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

const (
	first  = "/nix/store/00000000000000000000000000000000-first"
	second = "/nix/store/00000000000000000000000000000001-second"
)

// stream puts an export together by hand. The NAR is that of an empty file.
type stream struct {
	bytes.Buffer
	w *wire.Writer
}

func newStream() *stream {
	s := &stream{}
	s.w = wire.NewWriter(&s.Buffer)
	return s
}

func (s *stream) nar() *stream {
	for _, t := range []string{"nix-archive-1", "(", "type", "regular", "contents", "", ")"} {
		s.w.Text(t)
	}
	return s
}

func (s *stream) num(n uint64) *stream        { s.w.Uint64(n); return s }
func (s *stream) text(t string) *stream       { s.w.Text(t); return s }
func (s *stream) list(l ...string) *stream    { s.w.Strings(l); return s }
func (s *stream) reader(t *testing.T) *Reader { return NewReader(bytes.NewReader(s.data(t)), dir) }

func (s *stream) data(t testing.TB) []byte {
	if err := s.w.Flush(); err != nil {
		t.Fatal(err)
	}
	return s.Bytes()
}

func TestLegacySignature(t *testing.T) {
	s := newStream().num(1).nar().num(magic).text(second).list(second, first, first).text(first + ".drv").num(1).text("-----BEGIN").num(0)
	objects, err := readAll(s.reader(t))
	if err != nil || len(objects) != 1 {
		t.Fatal(objects, err)
	}
	i := objects[0].info
	if dir.Print(i.Path) != second || !slices.Equal(dir.PrintAll(i.References), []string{first, second}) || i.Deriver.Name() != "first.drv" {
		t.Errorf("%+v", i)
	}
}

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		s      *stream
		offset int64
		why    string
	}{
		"not an export":       {newStream().text("nix-archive-1"), 8, "doesn't look like something created by 'nix-store --export'"},
		"not an archive":      {newStream().num(1).text("tar").num(magic), 32, "bad archive"},
		"magic":               {newStream().num(1).nar().num(1), 128, "wrong format"},
		"path elsewhere":      {newStream().num(1).nar().num(magic).text("/tmp/x").list().text("").num(0).num(0), 144, "'/tmp/x' is not in the Nix store"},
		"path inside":         {newStream().num(1).nar().num(magic).text(first + "/bin"), 192, "is not in the Nix store"},
		"long path":           {newStream().num(1).nar().num(magic).text(strings.Repeat("x", 5000)), 136, "at most 4096 are allowed"},
		"reference elsewhere": {newStream().num(1).nar().num(magic).text(first).list(second, "x").text("").num(0), 280, "'x' is not in the Nix store"},
		"many references":     {newStream().num(1).nar().num(magic).text(first).num(1 << 40), 200, "at most 1048576"},
		"deriver elsewhere":   {newStream().num(1).nar().num(magic).text(first).list().text("x").num(0), 216, "'x' is not in the Nix store"},
		"odd signature mark":  {newStream().num(1).nar().num(magic).text(first).list().text("").num(2), 216, "number 2"},
	} {
		objects, err := readAll(c.s.reader(t))
		var f *FormatError
		if !errors.As(err, &f) || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, %v; want %q", name, objects, err, c.why)
		} else if f.Object != 1 || f.Offset != c.offset {
			t.Errorf("%s: %v; want byte %d", name, err, c.offset)
		}
	}
}

func TestErrorsStay(t *testing.T) {
	broken := errors.New("broken")
	r := NewReader(bytes.NewReader(golden(t)), dir)
	for range 2 {
		if _, err := r.Next(writerFunc(func([]byte) (int, error) { return 0, broken })); !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
			t.Errorf("writer: %v", err)
		}
	}
	r = NewReader(io.MultiReader(bytes.NewReader(golden(t)[:100]), iotest.ErrReader(broken)), dir)
	for range 2 {
		if _, err := r.Next(io.Discard); !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
			t.Errorf("reader: %v", err)
		}
	}
	s := newStream().num(0)
	r = s.reader(t)
	for range 2 {
		if _, err := r.Next(io.Discard); err != io.EOF {
			t.Errorf("end: %v", err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSource(t *testing.T) {
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	want, err := readAll(NewReader(bytes.NewReader(golden(t)), dir))
	if err != nil {
		t.Fatal(err)
	}
	var src store.ObjectSource = NewSource(bytes.NewReader(golden(t)), dir, spool)
	for i := 0; ; i++ {
		info, nar, err := src.Next()
		if err == io.EOF {
			if i != len(want) {
				t.Errorf("%d objects, want %d", i, len(want))
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			continue // what is not read is skipped
		}
		if data, err := io.ReadAll(nar); err != nil || !bytes.Equal(data, want[i].nar) || info.Path != want[i].info.Path {
			t.Errorf("%s: %d bytes, %v; want %d", info.Path, len(data), err, len(want[i].nar))
		}
	}
}

// fakeStore is a store of some objects.
type fakeStore struct {
	store.Store
	objects map[storepath.Path]object
}

func (s fakeStore) Dir() storepath.Dir { return dir }
func (s fakeStore) URI() string        { return "fake" }

func (s fakeStore) PathInfos(_ context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	infos := make([]*store.PathInfo, len(paths))
	for i, p := range paths {
		infos[i] = s.objects[p].info
	}
	return infos, nil
}

func (s fakeStore) NarFromPath(_ context.Context, p storepath.Path, w io.Writer) error {
	_, err := w.Write(s.objects[p].nar)
	return err
}

func TestWrite(t *testing.T) {
	objects, err := readAll(NewReader(bytes.NewReader(golden(t)), dir))
	if err != nil {
		t.Fatal(err)
	}
	s := fakeStore{objects: map[storepath.Path]object{}}
	var paths []storepath.Path
	for _, o := range slices.Backward(objects) {
		s.objects[o.info.Path] = o
		paths = append(paths, o.info.Path, o.info.Path)
	}
	var out bytes.Buffer
	if err := Write(t.Context(), &out, s, paths); err != nil {
		t.Fatal(err)
	}
	back, err := readAll(NewReader(&out, dir))
	if err != nil || len(back) != len(objects) {
		t.Fatalf("%d objects, %v", len(back), err)
	}
	if last := back[len(back)-1]; last.info.Path.Name() != "lib-1.2.drv" {
		t.Errorf("%s came last, not what refers to the others", last.info.Path)
	}

	missing := storepath.Path{}
	if missing, err = storepath.FromParts(make([]byte, 20), "missing"); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), io.Discard, s, []storepath.Path{missing}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("missing: %v", err)
	}
	o := objects[0]
	s.objects[o.info.Path] = object{o.info, append(slices.Clone(o.nar), 0)}
	if err := Write(t.Context(), io.Discard, s, []storepath.Path{o.info.Path}); !errors.Is(err, store.ErrMismatch) || !strings.Contains(err.Error(), "has changed from") {
		t.Errorf("changed: %v", err)
	}
}

func TestWriterErrorsStay(t *testing.T) {
	broken := errors.New("broken")
	w := NewWriter(io.Discard, dir)
	info := &store.PathInfo{}
	if err := w.Add(info, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := w.Add(info, func(io.Writer) error { return nil }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := w.Close(); !errors.Is(err, broken) {
		t.Error(err)
	}
	w = NewWriter(io.Discard, dir)
	if w.Close() != nil || w.Close() == nil || w.Add(info, nil) == nil {
		t.Error("a writer went on after its end")
	}
}

func FuzzExport(f *testing.F) {
	f.Add(golden(f))
	f.Add(newStream().num(1).nar().num(magic).text(second).list(second, first).text(first + ".drv").num(1).text("x").num(0).data(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := readAll(NewReader(bytes.NewReader(data), dir))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		var out bytes.Buffer
		w := NewWriter(&out, dir)
		for _, o := range objects {
			if err := w.Add(o.info, func(w io.Writer) error { _, err := w.Write(o.nar); return err }); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		back, err := readAll(NewReader(&out, dir))
		if err != nil || fmt.Sprint(len(back)) != fmt.Sprint(len(objects)) {
			t.Fatalf("%d objects come back as %d, %v", len(objects), len(back), err)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	nar := newStream()
	for _, t := range []string{"nix-archive-1", "(", "type", "regular", "contents", strings.Repeat("x", 8<<20), ")"} {
		nar.w.Text(t)
	}
	data := newStream().num(1)
	_, _ = data.w.Write(nar.data(b))
	raw := data.num(magic).text(first).list().text("").num(0).num(0).data(b)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(bytes.NewReader(raw), dir)
		if _, err := r.Next(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
