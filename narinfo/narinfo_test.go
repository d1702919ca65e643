package narinfo

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

const dir = storepath.DefaultDir

// golden is what `nix copy --to file://…` of Nix 2.34.8 wrote.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.narinfo")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	texts := map[string][]byte{}
	for _, f := range files {
		if texts[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

func TestGolden(t *testing.T) {
	for f, text := range golden(t) {
		i, err := Parse(dir, f, text)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := i.Text(dir); err != nil || !bytes.Equal(back, text) {
			t.Errorf("%s: printed %v (-want +got)\n%s", f, err, cmp.Diff(string(text), string(back)))
		}
		if !i.IsContentAddressed(dir) {
			t.Errorf("%s: path does not follow from %s", f, i.CA)
		}
	}
}

const (
	hash = "04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw"
	base = "46a847nlmp22cni3gqvxi5v8jb60fa1i-hello"
	drv  = "8jw45769dvp7x07d1hd3w4ib2bfzpf6x-tree.drv"
	full = "StorePath: /nix/store/" + base + "\n" +
		"URL: nar/x.nar.xz\n" +
		"Compression: xz\n" +
		"FileHash: sha256:" + hash + "\n" +
		"FileSize: 10\n" +
		"NarHash: sha256:" + hash + "\n" +
		"NarSize: 120\n" +
		"References: " + base + " " + drv + "\n" +
		"Deriver: " + drv + "\n" +
		"Sig: a-1:AAAA\n" +
		"Sig: b-1:AAAA\n" +
		"CA: fixed:r:sha256:" + hash + "\n"
)

func TestParse(t *testing.T) {
	i, err := Parse(dir, "x", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	h, err := nixhash.Parse("sha256:" + hash)
	if err != nil {
		t.Fatal(err)
	}
	p, d := path(t, base), path(t, drv)
	want := NarInfo{
		PathInfo: store.PathInfo{Path: p, Deriver: d, NarHash: h, NarSize: 120, References: []storepath.Path{p, d},
			Signatures: []store.Signature{"a-1:AAAA", "b-1:AAAA"}, CA: storepath.ContentAddress{Method: storepath.Recursive, Hash: h}},
		URL: "nar/x.nar.xz", Compression: "xz", FileHash: h, FileSize: 10,
	}
	if d := cmp.Diff(want, *i, cmp.Comparer(func(a, b storepath.Path) bool { return a == b }),
		cmp.Comparer(func(a, b nixhash.Hash) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if back, err := i.Text(dir); err != nil || string(back) != full {
		t.Errorf("%v\n%s", err, back)
	}
}

func path(t *testing.T, base string) storepath.Path {
	p, err := storepath.ParseBase(base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// change gives full with one text replaced, which must be there.
func change(t *testing.T, old, new string) []byte {
	t.Helper()
	if !strings.Contains(full, old) {
		t.Fatalf("no %q", old)
	}
	return []byte(strings.Replace(full, old, new, 1))
}

func TestParseLenient(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		check    func(*NarInfo) bool
	}{
		"unknown field":       {"Sig: a", "System: x86_64-linux\nSig: a", func(*NarInfo) bool { return true }},
		"unknown without gap": {"Sig: a", "X:y\nX:\nSig: a", func(*NarInfo) bool { return true }},
		"no compression":      {"Compression: xz\n", "", func(i *NarInfo) bool { return i.Compression == "bzip2" }},
		"no file hash":        {"FileHash: sha256:" + hash + "\n", "", func(i *NarInfo) bool { return i.FileHash.IsZero() }},
		"unknown deriver":     {"Deriver: " + drv, "Deriver: unknown-deriver", func(i *NarInfo) bool { return i.Deriver.IsZero() }},
		"blank CA":            {"CA: fixed:r:sha256:" + hash, "CA: ", func(i *NarInfo) bool { return i.CA.IsZero() }},
		"no references":       {base + " " + drv + "\nD", "\nD", func(i *NarInfo) bool { return len(i.References) == 0 }},
		"unsorted references": {base + " " + drv, drv + "  " + base + " " + drv, func(i *NarInfo) bool { return len(i.References) == 2 && i.References[0].Base() == base }},
		"base16 hash":         {"NarHash: sha256:" + hash, "NarHash: sha256:" + strings.Repeat("0", 64), func(i *NarInfo) bool { return !i.NarHash.IsZero() }},
	} {
		if i, err := Parse(dir, "x", change(t, c.old, c.new)); err != nil || !c.check(i) {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		line     int
		why      string
	}{
		"no path":            {"StorePath: /nix/store/" + base + "\n", "", 0, "StorePath missing"},
		"no URL":             {"URL: nar/x.nar.xz\n", "", 0, "URL missing"},
		"no hash":            {"NarHash: sha256:" + hash + "\n", "", 0, "NarHash missing"},
		"no size":            {"NarSize: 120\n", "", 0, "NarSize missing or zero"},
		"size 0":             {"NarSize: 120", "NarSize: 0", 0, "NarSize missing or zero"},
		"negative size":      {"NarSize: 120", "NarSize: -1", 7, "bad NarSize"},
		"size too big":       {"FileSize: 10", "FileSize: 99999999999999999999", 5, "bad FileSize"},
		"other store":        {"/nix/store/" + base + "\nURL", "/gnu/store/" + base + "\nURL", 1, "is not in the Nix store"},
		"path inside":        {base + "\nURL", base + "/bin\nURL", 1, "bad StorePath"},
		"sha1":               {"NarHash: sha256:" + hash, "NarHash: sha1:" + hash[:32], 6, "should have type 'sha256'"},
		"sha512 of the file": {"FileHash: sha256:" + hash, "FileHash: sha512:" + strings.Repeat("0", 128), 4, "should have type 'sha256'"},
		"hash without type":  {"NarHash: sha256:", "NarHash: ", 6, "does not include a type"},
		"reference in full":  {"References: ", "References: /nix/store/", 8, "bad References"},
		"reference upwards":  {"References: ", "References: ../../x ", 8, "bad References"},
		"tab in references":  {base + " " + drv, base + "\t" + drv, 8, "bad References"},
		"deriver in full":    {"Deriver: ", "Deriver: /nix/store/", 9, "bad Deriver"},
		"signature no colon": {"Sig: a-1:AAAA", "Sig: AAAA", 10, "bad Sig"},
		"unknown CA":         {"CA: fixed", "CA: floating", 12, "bad CA"},
		"extra references":   {"Deriver", "References: \nDeriver", 9, "extra References"},
		"extra path":         {"URL", "StorePath: /nix/store/" + base + "\nURL", 2, "extra StorePath"},
		"extra CA":           {"CA: ", "CA: \nCA: ", 13, "extra CA"},
		"carriage return":    {"xz\n", "xz\r\n", 2, "carriage return"},
		"no colon":           {"Compression: ", "Compression ", 3, "expecting ':'"},
		"empty line":         {"Compression", "\nCompression", 3, "expecting ':'"},
		"no gap":             {"Compression: ", "Compression:", 3, "expecting ' '"},
		"cut":                {"CA: fixed:r:sha256:" + hash + "\n", "CA: ", 12, `expecting '\n'`},
		"blank in the URL":   {"nar/x", "nar/ x", 2, "blank or control"},
		"escape in the URL":  {"nar/x", "nar/\x1b[2Jx", 2, "blank or control"},
		"URL not UTF-8":      {"nar/x", "nar/\xff", 2, "not UTF-8"},
	} {
		i, err := Parse(dir, "x.narinfo", change(t, c.old, c.new))
		var s *SyntaxError
		if !errors.As(err, &s) || !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v, %v; want a SyntaxError", name, i, err)
			continue
		}
		if s.Line != c.line || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), "'x.narinfo' is corrupt") {
			t.Errorf("%s: %v; want line %d, %q", name, err, c.line, c.why)
		}
	}
	if _, err := Parse(dir, "x", make([]byte, MaxSize+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("too big: %v", err)
	}
}

func TestTextErrors(t *testing.T) {
	for name, spoil := range map[string]func(*NarInfo){
		"no path":           func(i *NarInfo) { i.Path = storepath.Path{} },
		"no URL":            func(i *NarInfo) { i.URL = "" },
		"newline in URL":    func(i *NarInfo) { i.URL += "\nSig: x:y" },
		"no compression":    func(i *NarInfo) { i.Compression = "" },
		"no hash":           func(i *NarInfo) { i.NarHash = nixhash.Hash{} },
		"file hash of sha1": func(i *NarInfo) { i.FileHash = nixhash.Of(nixhash.SHA1, "") },
		"no size":           func(i *NarInfo) { i.NarSize = 0 },
	} {
		i, err := Parse(dir, "x", []byte(full))
		if err != nil {
			t.Fatal(err)
		}
		spoil(i)
		if text, err := i.Text(dir); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

func TestRelativeURL(t *testing.T) {
	for in, want := range map[string][2]string{
		"nar/x.nar.xz":            {"nar/x.nar.xz", ""},
		"x.nar":                   {"x.nar", ""},
		"nar/x.nar?hash=y&z=../w": {"nar/x.nar", "hash=y&z=../w"},
		"nar/a%2Bb":               {"nar/a+b", ""},
		"nar/..x/x..":             {"nar/..x/x..", ""},
		"nar/a:b":                 {"nar/a:b", ""},
	} {
		i := NarInfo{URL: in}
		if path, query, err := i.RelativeURL(); err != nil || path != want[0] || query != want[1] {
			t.Errorf("%s: %q %q %v", in, path, query, err)
		}
	}
	for _, in := range []string{"", "?x", "/etc/passwd", "//host/x", "nar//x", "nar/", "../x", "nar/../../x", "nar/..", "./x",
		"nar/%2e%2e/x", "%2e./x", "nar%2f..%2f..%2fx", "%2fetc/passwd", "https://example.org/x", "file:/etc/passwd", "file%3a/x",
		"nar/x%00", "nar/%0ax", "nar/%zz", "nar/x%", `nar\..\x`, "nar/x#y", "nar/\xff", strings.Repeat("x", 5000)} {
		i := NarInfo{URL: in}
		if path, query, err := i.RelativeURL(); !errors.Is(err, ErrURL) {
			t.Errorf("%.60s: %q %q %v; want ErrURL", in, path, query, err)
		}
	}
}

func FuzzNarInfo(f *testing.F) {
	for _, text := range golden(f) {
		f.Add(text)
	}
	f.Add([]byte(full))
	f.Fuzz(func(t *testing.T, text []byte) {
		i, err := Parse(dir, "x", text)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		printed, err := i.Text(dir)
		if err != nil {
			t.Fatalf("what was parsed cannot be printed: %v", err)
		}
		back, err := Parse(dir, "x", printed)
		if err != nil {
			t.Fatalf("what was printed cannot be parsed: %v\n%s", err, printed)
		}
		if again, err := back.Text(dir); err != nil || !bytes.Equal(again, printed) {
			t.Fatalf("%s\nprinted again is\n%s\n%v", printed, again, err)
		}
		if p, _, err := i.RelativeURL(); err == nil && !filepath.IsLocal(p) {
			t.Fatalf("%q leads out of the cache", p)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := golden(b)["testdata/references-signatures.narinfo"]
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(dir, "x", text); err != nil {
			b.Fatal(err)
		}
	}
}
