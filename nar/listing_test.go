package nar

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// oddTree is a tree that was given to stock Nix 2.34.8; goldens below are what
// that made of it.
func oddTree() string {
	return archive(dirTokens(
		"a", dirTokens("link", linkTokens("../sub/x")),
		"a-b", fileTokens(false, "2"),
		"a.b", dirTokens("f", fileTokens(false, "1")),
		"a0", fileTokens(false, "3"),
		"empty", fileTokens(false, ""),
		`quote"back\slash`, fileTokens(false, "12345678"),
		"sub", dirTokens("empty", dirTokens(), "x", fileTokens(true, "hello")),
		"tab\tnl\nbell\x01del\x7fü", fileTokens(false, "x"),
	))
}

// oddListing is the .ls file that `nix copy --to
// 'file://…?write-nar-listing=true'` wrote.
const oddListing = `{"root":{"entries":{"a":{"entries":{"link":{"target":"../sub/x","type":"symlink"}},"type":"directory"},"a-b":{"narOffset":592,"size":1,"type":"regular"},"a.b":{"entries":{"f":{"narOffset":920,"size":1,"type":"regular"}},"type":"directory"},"a0":{"narOffset":1144,"size":1,"type":"regular"},"empty":{"narOffset":1336,"size":0,"type":"regular"},"quote\"back\\slash":{"narOffset":1528,"size":8,"type":"regular"},"sub":{"entries":{"empty":{"entries":{},"type":"directory"},"x":{"executable":true,"narOffset":2056,"size":5,"type":"regular"}},"type":"directory"},"tab\tnl\nbell\u0001del` + "\x7f" + `ü":{"narOffset":2296,"size":1,"type":"regular"}},"type":"directory"},"version":1}`

func TestListingIsThatOfStockNix(t *testing.T) {
	l, err := List(strings.NewReader(oddTree()))
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.MarshalJSON()
	if err != nil || string(got) != oddListing {
		t.Errorf("%v\n%s", err, cmp.Diff(oddListing, string(got)))
	}
	again, err := ReadListing(strings.NewReader(oddListing))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(l, again); d != "" {
		t.Error(d)
	}
	shallow, err := l.Root.AppendJSON(nil, 1)
	const wantShallow = `{"entries":{"a":{},"a-b":{},"a.b":{},"a0":{},"empty":{},"quote\"back\\slash":{},"sub":{},"tab\tnl\nbell\u0001del` + "\x7f" + `ü":{}},"type":"directory"}`
	if err != nil || string(shallow) != wantShallow {
		t.Errorf("%v\n%s", err, shallow)
	}
	if one, _ := json.Marshal(l.Lookup("sub/x")); string(one) != `{"executable":true,"narOffset":2056,"size":5,"type":"regular"}` {
		t.Errorf("%s", one)
	}
}

func TestListingLookup(t *testing.T) {
	l, err := List(strings.NewReader(oddTree()))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]Type{
		"": TypeDirectory, "/": TypeDirectory, ".": TypeDirectory, "a": TypeDirectory, "/a/": TypeDirectory,
		"a/link": TypeSymlink, "./sub//x": TypeRegular, "a0": TypeRegular,
		"b": 0, "a/link/x": 0, "sub/..": 0, "sub/x/y": 0, "A": 0,
	} {
		var got Type
		if n := l.Lookup(path); n != nil {
			got = n.Type
		}
		if got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
}

func TestListingOfNamesThatAreNotUTF8(t *testing.T) {
	for _, in := range []string{archive(dirTokens("\xff", fileTokens(false, ""))), archive(linkTokens("\xc3"))} {
		l, err := List(strings.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := l.MarshalJSON(); !errors.Is(err, ErrNotUTF8) {
			t.Errorf("%s, %v", b, err)
		}
	}
}

func TestReadListingAccepts(t *testing.T) {
	file := &Node{Type: TypeRegular, Size: 3}
	for in, want := range map[string]*Node{
		` { "version" : 1 , "root" : { "type" : "regular", "size" : 3 } } `:                         file,
		`{"root":{"size":3,"type":"regular","executable":false,"narOffset":0},"version":1}`:         file,
		`{"root":{"size":3,"type":"regular","new":[1,-2.5e3,{"x":[]},"\n",null,true]},"version":1}`: file,
		`{"new":{},"root":{"size":9223372036854775807,"type":"regular"},"version":1}`:               {Type: TypeRegular, Size: 1<<63 - 1},
		`{"root":{"type":"symlink","target":"\ud83d\ude00\/\u00e9"},"version":1}`:                   {Type: TypeSymlink, Target: "😀/é"},
		`{"root":{"type":"directory","entries":{"b":{"type":"regular","size":3},"a":{"size":3,"type":"regular"}}},"version":1}`: {
			Type: TypeDirectory, Entries: []DirEntry{{"a", file}, {"b", file}}},
	} {
		l, err := ReadListing(strings.NewReader(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if d := cmp.Diff(want, l.Root); d != "" {
			t.Errorf("%s: %s", in, d)
		}
	}
}

func TestReadListingRefuses(t *testing.T) {
	root := func(s string) string { return `{"root":` + s + `,"version":1}` }
	entry := func(name string) string {
		return root(`{"entries":{"` + name + `":{"size":0,"type":"regular"}},"type":"directory"}`)
	}
	for in, reason := range map[string]string{
		``:                                    "expected '{'",
		`null`:                                "expected '{'",
		`{}`:                                  "version is 0",
		`{"version":2}`:                       "version is 2",
		`{"version":1}`:                       "no root",
		root(`{}`):                            "unknown file type",
		root(`{"type":"fifo"}`):               "unknown file type",
		root(`{"type":"regular"}`):            "without size",
		root(`{"type":"directory"}`):          "without entries",
		root(`{"type":"symlink"}`):            "empty symlink target",
		root(`[]`):                            "expected '{'",
		root(`{"type":"regular","size":-1}`):  "expected an integer",
		root(`{"type":"regular","size":1.5}`): "expected an integer",
		root(`{"type":"regular","size":1e3}`): "expected an integer",
		root(`{"type":"regular","size":01}`):  "expected an integer",
		root(`{"type":"regular","size":9223372036854775808}`):                   "expected an integer",
		root(`{"type":"regular","size":"1"}`):                                   "expected an integer",
		root(`{"type":"regular","size":1,"executable":1}`):                      "expected true or false",
		root(`{"type":"regular","size":1,"size":2}`):                            "duplicate key",
		root(`{"type":"symlink","target":"` + strings.Repeat("x", 4096) + `"}`): "longer than 4095",
		root(`{"type":"symlink","target":"\u0000"}`):                            "NUL",
		root(`{"type":"symlink","target":"\ud800"}`):                            "invalid escape",
		root(`{"type":"symlink","target":"\ud800\u0041"}`):                      "invalid escape",
		root(`{"type":"symlink","target":"\x41"}`):                              "invalid escape",
		root("{\"type\":\"symlink\",\"target\":\"\xff\"}"):                      "not valid UTF-8",
		root("{\"type\":\"symlink\",\"target\":\"\\n\xff\"}"):                   "not valid UTF-8",
		root("{\"type\":\"symlink\",\"target\":\"\n\"}"):                        "control character",
		root(`{"type":"symlink","target":"x`):                                   "expected '}'",
		`{"root":{"type":"symlink","target":"x`:                                 "no end",
		`{"root":{"type":"symlink","target":"\`:                                 "invalid escape",
		root(`{"type":"symlink","target":"x"}`) + "x":                           "something follows",
		root(`{"type":"symlink","target":"x",}`):                                "expected a string",
		root(`{"type":"symlink","target":"x","new":[1,]}`):                      "expected a value",
		root(`{"type":"symlink","target":"x","new":--1}`):                       "invalid number",
		root(`{"type":"symlink","target":"x","new":00}`):                        "expected '}'",
		root(`{"type":"symlink","target":"x","new":1.}`):                        "invalid number",
		root(`{"type":"symlink","target":"x","new":-.5}`):                       "invalid number",
		root(`{"type":"symlink","target":"x","new":1e+}`):                       "invalid number",
		root(`{"x":` + strings.Repeat("[", 1000)):                               "nested too deeply",
		entry(""):                       "empty file name",
		entry(".."):                     "file name is '..'",
		entry("a/b"):                    "contains a slash",
		entry(`a\u0000`):                "contains a NUL",
		entry(strings.Repeat("n", 256)): "longer than 255",
		entry(`a":{"size":0,"type":"regular"},"\u0061`): `two entries named "a"`,
		root(strings.Repeat(`{"type":"directory","entries":{"d":`, 64) + `{"type":"regular","size":0}` + strings.Repeat("}}", 64)): "maximum NAR directory depth",
	} {
		_, err := ReadListing(strings.NewReader(in))
		var fe *FormatError
		if !errors.As(err, &fe) || !strings.Contains(err.Error(), reason) || !strings.HasPrefix(err.Error(), "bad archive listing: ") {
			t.Errorf("%.80s: got %v, want %q", in, err, reason)
		}
	}
	for n := range len(oddListing) {
		if _, err := ReadListing(strings.NewReader(oddListing[:n])); err == nil {
			t.Errorf("cut at %d: no error", n)
		}
	}
	in := `{"root":{"type":"directory","entries":{"a":{"type":"directory","entries":{"b":{"type":7}}}}}}`
	_, err := ReadListing(strings.NewReader(in))
	want := fmt.Sprintf(`bad archive listing: JSON: expected a string at offset %d in "a/b"`, strings.Index(in, "7"))
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func FuzzListing(f *testing.F) {
	f.Add([]byte(oddListing))
	f.Add([]byte(`{"root":{"type":"symlink","target":"\ud83d\ude00"},"version":1}`))
	f.Add([]byte(`{"root":{"type":"symlink","target":"x","new":[0,-0,1e400,-10.50E-007]},"version":1}`))
	f.Add([]byte(`{"version":1,"root":{"size":3,"type":"regular","new":[1,-2.5e3,{"x":[]},"\n",null,true]}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := ReadListing(bytes.NewReader(in))
		if err != nil {
			return
		}
		if !json.Valid(in) {
			t.Errorf("took what is no JSON")
		}
		b, err := l.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadListing(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(l, again); d != "" {
			t.Error(d)
		}
	})
}

func TestFindAndCat(t *testing.T) {
	in := oddTree()
	for path, want := range map[string]string{"sub/x": "hello", "/a.b//f": "1", "./a-b": "2", "empty": ""} {
		var b bytes.Buffer
		if err := Cat(&b, strings.NewReader(in), path); err != nil || b.String() != want {
			t.Errorf("%q: %q, %v", path, &b, err)
		}
	}
	for _, path := range []string{"a1", "zzz", "a/m", "a-b/x", "a/link/x", "sub/..", "A"} {
		if err := Cat(io.Discard, strings.NewReader(in), path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, path := range []string{"", "a", "a/link"} {
		if err := Cat(io.Discard, strings.NewReader(in), path); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", path, err)
		}
	}
	// It must not need what lies behind.
	cut := in[:strings.Index(in, "empty")]
	if err := Cat(io.Discard, strings.NewReader(cut), "a0"); err != nil {
		t.Error(err)
	}
	if err := Cat(io.Discard, strings.NewReader(cut), "a/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	r := NewReader(strings.NewReader(in))
	if e, err := r.Find("sub"); err != nil || e.Type != TypeDirectory {
		t.Error(e, err)
	}
	if e, err := r.Find("sub/x"); err != nil || !e.Executable {
		t.Error(e, err)
	}
	if _, err := r.Find("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestGitHashIsThatOfStockNix(t *testing.T) {
	for _, tt := range []struct {
		in   string
		h    func() hash.Hash
		id   string
		mode GitMode
	}{ // `nix hash path --mode git`
		{oddTree(), sha1.New, "c7c91d2e3c0b59d6ce3ab4e844b6227d3c2a81fb", GitDirectory},
		{oddTree(), sha256.New, "0837d376da08e7944b63a2f054bbd43e3a02c927fe6807241278ba46ea3087ef", GitDirectory},
		{archive(dirTokens("empty", dirTokens(), "x", fileTokens(true, "hello"))), sha1.New, "fbc0948b2428837d2801404946ae8d8299f11fbd", GitDirectory},
		// `git hash-object`
		{archive(dirTokens()), sha1.New, "4b825dc642cb6eb9a060e54bf8d69288fbee4904", GitDirectory},
		{archive(fileTokens(false, "")), sha1.New, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", GitRegular},
		{archive(fileTokens(true, "hello")), sha1.New, "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0", GitExecutable},
		{archive(linkTokens("hello")), sha1.New, "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0", GitSymlink},
	} {
		id, mode, err := GitHash(strings.NewReader(tt.in), tt.h)
		if err != nil || hex.EncodeToString(id) != tt.id || mode != tt.mode {
			t.Errorf("got %x %o, %v; want %s %o", id, mode, err, tt.id, tt.mode)
		}
	}
	if _, _, err := GitHash(strings.NewReader(oddTree()[:500]), sha1.New); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// The examples of the package's documentation have to work.
func Example() {
	dir, err := os.MkdirTemp("", "nar")
	if err != nil {
		panic(err)
	}
	defer RemoveTree(ctx, dir)

	var b bytes.Buffer
	w := NewWriter(&b)
	w.Next(Entry{Type: TypeDirectory})
	w.Next(Entry{Path: "hello", Type: TypeRegular, Size: 6})
	io.WriteString(w, "world\n")
	w.Next(Entry{Path: "link", Type: TypeSymlink, Target: "hello"})
	if err := w.Close(); err != nil {
		panic(err)
	}
	stats, err := Restore(ctx, &b, filepath.Join(dir, "out"), RestoreOptions{})
	if err != nil {
		panic(err)
	}
	fmt.Printf("%+v\n", stats)

	var again bytes.Buffer
	Dump(ctx, &again, filepath.Join(dir, "out"))
	l, _ := List(&again)
	fmt.Println(l.Lookup("link").Target)
	// Output:
	// {Files:1 Directories:1 Symlinks:1 Bytes:6 NarSize:480}
	// hello
}
