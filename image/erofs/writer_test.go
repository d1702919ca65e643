package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// memory is an image in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	if size > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, size-int64(len(m.b)))...)
	}
	m.b = m.b[:size]
	return nil
}

// tree is what goes into an image: directories, links and files by name.
type (
	tree       map[string]any // tree, link, string, executable
	link       string
	executable string
)

func (tr tree) write(w *Writer) error {
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range tr {
			if !yield(n) {
				return
			}
		}
	}) {
		var err error
		switch v := tr[name].(type) {
		case tree:
			if err = w.Mkdir(name, 0o555); err == nil {
				if err = v.write(w); err == nil {
					err = w.Leave()
				}
			}
		case link:
			err = w.Symlink(name, string(v))
		case executable:
			err = w.File(name, 0o555, int64(len(v)), strings.NewReader(string(v)))
		case string:
			err = w.File(name, 0o444, int64(len(v)), strings.NewReader(v))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (tr tree) image(t testing.TB, o Options) *memory {
	t.Helper()
	m := new(memory)
	w, err := NewWriter(m, o)
	if err == nil {
		err = tr.write(w)
	}
	if err == nil {
		err = w.Close([16]byte{1, 2, 3})
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// differs tells what an image does not show as it is in the tree.
func (tr tree) differs(n *node, path string, time uint64) error {
	if n.mtime != time {
		return fmt.Errorf("%s has the time %d", path, n.mtime)
	}
	if len(n.names) != len(tr) {
		return fmt.Errorf("%s has %d entries, want %d", path, len(n.names), len(tr))
	}
	for name, v := range tr {
		got := n.names[name]
		if got == nil {
			return fmt.Errorf("%s/%s is missing", path, name)
		}
		mode, data := uint32(unix.S_IFREG|0o444), ""
		switch v := v.(type) {
		case tree:
			if err := v.differs(got, path+"/"+name, time); err != nil {
				return err
			}
			mode = unix.S_IFDIR | 0o555
		case link:
			mode, data = unix.S_IFLNK|0o777, string(v)
		case executable:
			mode, data = unix.S_IFREG|0o555, string(v)
		case string:
			data = v
		}
		if got.mode != mode || got.data != data || got.mtime != time {
			return fmt.Errorf("%s/%s: mode %o, time %d, %d bytes; want %o and %d bytes", path, name, got.mode, got.mtime, len(got.data), mode, len(data))
		}
	}
	return nil
}

func (tr tree) check(t testing.TB, m *memory, time uint64) *node {
	t.Helper()
	img, err := openImage(bytes.NewReader(m.b))
	if err != nil {
		t.Fatal(err)
	}
	if img.blocks*4096 != int64(len(m.b)) {
		t.Errorf("%d blocks in %d bytes", img.blocks, len(m.b))
	}
	root, err := img.read()
	if err == nil {
		err = tr.differs(root, "", time)
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func blob(n int, seed uint64) string {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return string(b)
}

// sizes has files of sizes around those that matter.
func sizes() tree {
	tr := tree{}
	for i, n := range []int{0, 1, 31, 32, 33, 2032, 4031, 4032, 4033, 4063, 4064, 4065, 4095, 4096, 4097, 8191, 8192, 8193, 12288 + 4064, 12288 + 4065, 300 << 10, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 7} {
		tr[fmt.Sprintf("%07d", n)] = blob(n, uint64(i))
	}
	return tr
}

func trees() map[string]tree {
	wide := tree{}
	for i := range 3000 {
		name := fmt.Sprintf("entry-with-quite-some-name-%d-%s", i, strings.Repeat("x", i%200))
		if i%3 == 0 {
			wide[name] = tree{"f": fmt.Sprint(i)}
		} else {
			wide[name] = fmt.Sprint(i)
		}
	}
	deep := tree{"f": "bottom"}
	for range 60 {
		deep = tree{"d": deep, "x": "x"}
	}
	return map[string]tree{
		"empty":  {},
		"one":    {"f": "contents"},
		"odd":    {"!": "before the dots", "+x": "x", "-": "-", ".a": "a", "..b": "b", "...": "c", "\xff\xfe": "no text", " ": "", strings.Repeat("n", 255): "long"},
		"links":  {"l": link("target"), "d": tree{"l": link("../../f")}, "long": link(strings.Repeat("a/", 2047)), "longer": link(strings.Repeat("b", 4095))},
		"modes":  {"run": executable("#!/bin/sh\n"), "empty": executable(""), "dir": tree{}},
		"sizes":  sizes(),
		"wide":   {"nix": tree{"store": wide}},
		"deep":   deep,
		"bigdir": {"a": wide, "b": tree{"a": wide}},
	}
}

func TestRoundTrip(t *testing.T) {
	for name, tr := range trees() {
		t.Run(name, func(t *testing.T) {
			for _, o := range []Options{{Time: 1}, {Time: 1, Link: true}, {Time: 1700000000, Label: "fifteen letters"}} {
				m := tr.image(t, o)
				tr.check(t, m, o.Time)
				if again := tr.image(t, o); !bytes.Equal(m.b, again.b) {
					t.Error("the same tree gives another image")
				}
			}
		})
	}
}

func TestEqualFilesBecomeOne(t *testing.T) {
	large := blob(3<<20, 1)
	tr := tree{
		"a": tree{"f": "same", "g": "other", "run": executable("same"), "large": large},
		"b": tree{"f": "same", "large": large, "empty": ""}, "empty": "",
		"c": tree{"z": blob(5000, 3)},
	}
	m := tr.image(t, Options{Link: true})
	root := tr.check(t, m, 0)
	a, b := root.names["a"].names, root.names["b"].names
	if a["f"].nid != b["f"].nid || a["f"].links != 2 || a["g"].links != 1 || a["large"] != b["large"] || a["large"].links != 2 {
		t.Errorf("%+v, %+v", a["f"], b["f"])
	}
	if a["run"].nid == a["f"].nid {
		t.Error("an executable is one with what is none")
	}
	if len(m.b) > 4<<20 {
		t.Errorf("%d bytes", len(m.b))
	}
	if n := len(tr.image(t, Options{}).b); n < 6<<20 {
		t.Errorf("not asked for, and yet: %d bytes", n)
	}
}

func TestMoreNamesThanAnInodeCanHave(t *testing.T) {
	testenv.Long(t)
	tr := tree{}
	for i := range 65535 + 10 {
		tr[fmt.Sprintf("%d", i)] = "same"
	}
	root := tr.check(t, tr.image(t, Options{Link: true}), 0)
	got := map[uint32]int{}
	for _, n := range root.names {
		got[n.links]++
	}
	if got[65535] != 65535 || got[10] != 10 {
		t.Errorf("%v", got)
	}
}

// A store directory may have more directories than 16 bits count.
func TestManyDirectories(t *testing.T) {
	testenv.Long(t)
	tr := tree{}
	for i := range 66000 {
		tr[fmt.Sprintf("%06d", i)] = tree{}
	}
	all := tree{"nix": tree{"store": tr}}
	all.check(t, all.image(t, Options{Time: 1}), 1)
}

func TestWrongUse(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *Writer) error
		want error
	}{
		"short":       {func(w *Writer) error { return w.File("f", 0o444, 5, strings.NewReader("four")) }, ErrSize},
		"long":        {func(w *Writer) error { return w.File("f", 0o444, 3, strings.NewReader("four")) }, ErrSize},
		"long blocks": {func(w *Writer) error { return w.File("f", 0o444, 4096, strings.NewReader(blob(4097, 1))) }, ErrSize},
		"short block": {func(w *Writer) error { return w.File("f", 0o444, 8192, strings.NewReader(blob(8191, 1))) }, ErrSize},
		"negative":    {func(w *Writer) error { return w.File("f", 0o444, -1, strings.NewReader("")) }, ErrSize},
		"huge":        {func(w *Writer) error { return w.File("f", 0o444, 1<<60, strings.NewReader("")) }, ErrTooLarge},
		"slash":       {func(w *Writer) error { return w.Mkdir("a/b", 0o555) }, ErrName},
		"dots":        {func(w *Writer) error { return w.Symlink("..", "x") }, ErrName},
		"zero":        {func(w *Writer) error { return w.Symlink("a\x00", "x") }, ErrName},
		"long name":   {func(w *Writer) error { return w.Mkdir(strings.Repeat("n", 256), 0o555) }, ErrName},
		"no target":   {func(w *Writer) error { return w.Symlink("l", "") }, ErrName},
		"twice": {func(w *Writer) error {
			return errors.Join(w.Symlink("l", "x"), w.Symlink("l", "y"), w.Close([16]byte{}))
		}, ErrName},
	} {
		w, err := NewWriter(new(memory), Options{Link: true})
		if err == nil {
			err = c.do(w)
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Close([16]byte{}); err == nil {
			t.Errorf("%s: it can be closed", name)
		}
	}
	w, _ := NewWriter(new(memory), Options{})
	if err := w.Leave(); err == nil {
		t.Error("left the root")
	}
	w, _ = NewWriter(new(memory), Options{})
	if err := errors.Join(w.Mkdir("d", 0o555), w.Close([16]byte{})); err == nil {
		t.Error("closed inside of a directory")
	}
	if _, err := NewWriter(new(memory), Options{Label: "more than fifteen"}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

// failing is an output on which a write fails.
type failing struct {
	memory
	left int
}

var errDisk = errors.New("disk")

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errDisk
	}
	return f.memory.WriteAt(p, off)
}

func TestErrorsOfTheDiskAreTold(t *testing.T) {
	testenv.Long(t)
	tr := trees()["bigdir"]
	tr["large"] = blob(3<<20, 1)
	for n := 0; ; n += 1 + n/3 {
		out := &failing{left: n}
		w, err := NewWriter(out, Options{Link: true})
		if err == nil {
			err = tr.write(w)
		}
		err = errors.Join(err, w.Close([16]byte{}))
		if err == nil {
			if n < 5 {
				t.Errorf("only %d writes", n)
			}
			tr.check(t, &out.memory, 0)
			return
		}
		if !errors.Is(err, errDisk) {
			t.Fatalf("write %d: %v", n, err)
		}
	}
}

// FuzzTree makes a tree of bytes and reads it back.
func FuzzTree(f *testing.F) {
	f.Add([]byte("dfa1fb2ulxt"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		root := tree{}
		open := []tree{root}
		for i := 0; i+2 < len(b) && i < 3000; i += 3 {
			here := open[len(open)-1]
			name := fmt.Sprintf("%c%s", b[i+1]|0x20, strings.Repeat("n", int(b[i+2])%40))
			if checkName(name) != nil || here[name] != nil {
				continue
			}
			size := int(b[i+1])<<6 + int(b[i+2])
			switch b[i] % 6 {
			case 0, 1:
				here[name] = blob(size, uint64(b[i+2]%3))
			case 2:
				here[name] = executable(blob(size%4200, 7))
			case 3:
				here[name] = link(strings.Repeat("t", 1+size%4095))
			case 4:
				d := tree{}
				here[name] = d
				open = append(open, d)
			case 5:
				open = open[:max(1, len(open)-1)]
			}
		}
		for _, o := range []Options{{Time: 1}, {Time: 1, Link: true}} {
			root.check(t, root.image(t, o), 1)
		}
	})
}

func BenchmarkSmallFiles(b *testing.B) {
	contents := blob(900, 1)
	for b.Loop() {
		f, err := os.CreateTemp(b.TempDir(), "")
		if err != nil {
			b.Fatal(err)
		}
		w, _ := NewWriter(f, Options{Time: 1})
		for d := range 100 {
			_ = w.Mkdir(fmt.Sprint(d), 0o555)
			for i := range 1000 {
				_ = w.File(fmt.Sprint(i), 0o444, 900, strings.NewReader(contents))
			}
			_ = w.Leave()
		}
		if err := w.Close([16]byte{}); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
