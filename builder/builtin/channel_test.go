package builtin

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/nar"
)

// tarball makes an archive of entries.
func tarball(t testing.TB, entries ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		contents := ""
		if h.Typeflag == tar.TypeReg {
			contents = "contents of " + h.Name
			h.Size = int64(len(contents))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, contents); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func dir(name string) tar.Header  { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
func program(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}
}
func link(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}
func hard(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

func channel(t *testing.T, name, contents string) (*world, error) {
	t.Helper()
	w := newWorld(t, "unpack-channel", map[string]string{"channelName": name})
	w.Drv.Env["src"] = w.add(map[string]string{"": contents})
	return w, w.run()
}

func TestUnpackChannel(t *testing.T) {
	plain := tarball(t, dir("nixpkgs-1/"), file("nixpkgs-1/default.nix"), program("nixpkgs-1/bin/x"), link("nixpkgs-1/l", "bin/x"), hard("nixpkgs-1/h", "nixpkgs-1/bin/x"))
	want := map[string]string{
		"chan/default.nix": "contents of nixpkgs-1/default.nix", "chan/bin/x*": "contents of nixpkgs-1/bin/x",
		"chan/l": "-> bin/x", "chan/h*": "contents of nixpkgs-1/bin/x",
	}
	for _, m := range []compress.Method{compress.None, compress.XZ, compress.Gzip, compress.Bzip2, compress.Zstd} {
		w, err := channel(t, "chan", packed(t, m, plain))
		if err != nil {
			t.Errorf("%s: %v", m, err)
			continue
		}
		if got := w.output(); !maps.Equal(got, want) {
			t.Errorf("%s: got %q", m, got)
		}
	}
}

func TestUnpackZip(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(name, contents string, mode fs.FileMode) {
		t.Helper()
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, contents); err != nil {
			t.Fatal(err)
		}
	}
	add("a/", "", fs.ModeDir|0o755)
	add("a/x", "x", 0o755)
	add("a/b/y", "y", 0o644)
	add("a/l", "x", fs.ModeSymlink|0o777)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	world, err := channel(t, "a", b.String())
	if err != nil {
		t.Fatal(err)
	}
	if got := world.output(); !maps.Equal(got, map[string]string{"a/x*": "x", "a/b/y": "y", "a/l": "-> x"}) {
		t.Errorf("got %q", got)
	}
	bad := bytes.Replace(b.Bytes(), []byte("a/b/y"), []byte("a/../"), -1)
	if _, err := channel(t, "a", string(bad)); err == nil {
		t.Error("a name that leads out")
	}
	if _, err := channel(t, "a", b.String()[:b.Len()-30]); err == nil {
		t.Error("truncated")
	}
}

// What tar programs do and mean.
func TestUnpackOddities(t *testing.T) {
	for name, c := range map[string]struct {
		entries []tar.Header
		want    map[string]string
	}{
		"absolute names":    {[]tar.Header{file("/a/x")}, map[string]string{"c/x": "contents of /a/x"}},
		"dots":              {[]tar.Header{dir("./"), file("./a/./x")}, map[string]string{"c/x": "contents of ./a/./x"}},
		"no directories":    {[]tar.Header{file("a/b/c/x")}, map[string]string{"c/b/c/x": "contents of a/b/c/x"}},
		"directories twice": {[]tar.Header{dir("a"), file("a/x"), dir("a")}, map[string]string{"c/x": "contents of a/x"}},
		"directories late":  {[]tar.Header{file("a/x"), dir("a/"), dir("a/y/")}, map[string]string{"c/x": "contents of a/x", "c/y/": ""}},
		"a directory that cannot be read": {
			[]tar.Header{{Typeflag: tar.TypeDir, Name: "a/", Mode: 0}, file("a/x")}, map[string]string{"c/x": "contents of a/x"},
		},
		"the last one wins":  {[]tar.Header{link("a/x", "y"), file("a/x"), file("a/l"), link("a/l", "x")}, map[string]string{"c/x": "contents of a/x", "c/l": "-> x"}},
		"a single file":      {[]tar.Header{file("x")}, map[string]string{"c": "contents of x"}},
		"a symlink anywhere": {[]tar.Header{link("a/x", "/etc/passwd"), link("a/y", "../../..")}, map[string]string{"c/x": "-> /etc/passwd", "c/y": "-> ../../.."}},
		"hard link to a symlink": {
			[]tar.Header{link("a/x", "y"), hard("a/z", "/a/x")}, map[string]string{"c/x": "-> y", "c/z": "-> y"},
		},
		"a link to itself": {[]tar.Header{file("a/x"), hard("a/x", "a/x")}, map[string]string{"c/x": "contents of a/x"}},
		"what was linked is replaced": {
			[]tar.Header{file("a/x"), hard("a/y", "a/x"), {Typeflag: tar.TypeReg, Name: "a/../a/x"}}, nil,
		},
		"remarks": {
			[]tar.Header{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "abc"}}, file("a/x")},
			map[string]string{"c/x": "contents of a/x"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := channel(t, "c", tarball(t, c.entries...))
			if c.want == nil {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := w.output()
			if single, ok := got["c"]; ok && len(got) == 1 {
				got = map[string]string{"c": single}
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// Whatever an archive says, nothing is made outside of the output.
func TestUnpackStaysInside(t *testing.T) {
	outside := t.TempDir()
	makeTree(t, outside, map[string]string{"victim": "unharmed"})
	victim := filepath.Join(outside, "victim")
	for name, entries := range map[string][]tar.Header{
		"dots":                      {file("../x")},
		"dots inside":               {file("a/../../x")},
		"dots that come back":       {file("a/../x")},
		"a directory above":         {dir("..")},
		"a link from above":         {link("../x", "y")},
		"a hard link to above":      {file("a/f"), hard("a/x", "../../victim")},
		"a hard link to outside":    {hard("a/x", victim)},
		"a hard link by a symlink":  {link("a/l", outside), hard("a/x", "a/l/victim")},
		"through a symlink":         {link("a/l", outside), file("a/l/victim")},
		"through a symlink inside":  {dir("a/d"), link("a/l", "d"), file("a/l/x")},
		"through a symlink above":   {link("a", outside), dir("a"), file("a/victim")},
		"a directory on a symlink":  {link("a/l", outside), dir("a/l")},
		"a file under a file":       {file("a/x"), file("a/x/y")},
		"a file on a directory":     {dir("a/x"), file("a/x")},
		"a symlink on a directory":  {dir("a/x"), link("a/x", outside)},
		"a file on all":             {file(".")},
		"a symlink on all":          {link(".", outside)},
		"a hard link to nothing":    {hard("a/x", "a/none")},
		"a hard link to a dir":      {dir("a/d"), hard("a/x", "a/d")},
		"a device":                  {{Typeflag: tar.TypeChar, Name: "a/x", Devmajor: 1, Devminor: 3}},
		"a FIFO":                    {{Typeflag: tar.TypeFifo, Name: "a/x"}},
		"a symlink to nothing":      {link("a/x", "")},
		"a symlink that is too far": {link("a/x", strings.Repeat("x", nar.MaxTarget+1))},
		"deep":                      {file(strings.Repeat("d/", nar.MaxDepth) + "x")},
		"a long name":               {file("a/" + strings.Repeat("x", nar.MaxName+1))},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := channel(t, "c", tarball(t, entries...))
			if _, ok := errors.AsType[*EntryError](err); !ok || !strings.Contains(err.Error(), "while unpacking '/nix/store/") {
				t.Errorf("error %v", err)
			}
			entries, err := os.ReadDir(w.real)
			if err != nil || len(entries) != 2 {
				t.Errorf("beside the output: %v, %v", entries, err)
			}
		})
	}
	entries, err := os.ReadDir(outside)
	data, err2 := os.ReadFile(victim)
	if err != nil || err2 != nil || len(entries) != 1 || string(data) != "unharmed" {
		t.Errorf("outside: %v, %q", entries, data)
	}
}

func TestUnpackFaults(t *testing.T) {
	good := tarball(t, file("a/x"))
	for name, c := range map[string]struct{ channel, contents, want string }{
		"nothing":             {"c", tarball(t), "is empty"},
		"an empty file":       {"c", "", "is empty"},
		"only itself":         {"c", tarball(t, dir("./")), "is empty"},
		"two directories":     {"c", tarball(t, dir("a"), dir("b")), "contains more than one file"},
		"no archive":          {"c", strings.Repeat("this is no archive", 100), "tar"},
		"truncated":           {"c", good[:520], "unexpected EOF"},
		"truncated and zst":   {"c", packed(t, compress.Zstd, good)[:60], "unexpected EOF"},
		"a slash in the name": {"a/b", good, "channelName is not allowed to contain filesystem separators, got 'a/b'"},
		"a name that is up":   {"..", good, "channelName"},
		"no name":             {"", good, "channelName"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := channel(t, c.channel, c.contents)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A size costs nothing to claim, and is refused before anything is written.
func TestUnpackBomb(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a/x", Size: MaxUnpacked + 1}); err != nil {
		t.Fatal(err)
	}
	_, err := channel(t, "c", b.String())
	if !errors.Is(err, ErrUnpackLimit) {
		t.Error(err)
	}
	for _, full := range []tree{{names: MaxNames}, {bytes: MaxUnpacked}} {
		root, err := newTree(t.Context(), filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		root.names, root.bytes = full.names, full.bytes
		err = root.untar(strings.NewReader(tarball(t, file("a/x"))))
		if root.root.Close(); !errors.Is(err, ErrUnpackLimit) {
			t.Error(err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		above := t.TempDir()
		file, err := os.Create(filepath.Join(above, "src"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(data); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		tree, err := newTree(t.Context(), filepath.Join(above, "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer tree.root.Close()
		tree.bytes = MaxUnpacked - 1<<20
		_ = unpackArchive(t.Context(), tree, file)
		entries, err := os.ReadDir(above)
		if err != nil || len(entries) != 2 {
			t.Errorf("beside the output: %v, %v", entries, err)
		}
		for _, name := range tree.top() {
			if _, err := os.Lstat(filepath.Join(above, "out", name)); err != nil {
				t.Error(err)
			}
		}
	})
}
