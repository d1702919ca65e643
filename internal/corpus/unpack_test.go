package corpus

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// writeDeb makes a package file of two uncompressed members.
func writeDeb(t *testing.T, files ...tar.Header) string {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, h := range files {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "content of " + h.Name
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	deb := bytes.NewBufferString("!<arch>\n")
	for _, m := range []struct{ name, body string }{{"debian-binary", "2.0"}, {"data.tar", data.String()}} {
		fmt.Fprintf(deb, "%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", m.name, 0, 0, 0, 0o644, len(m.body), m.body)
		if len(m.body)%2 == 1 {
			deb.WriteByte('\n')
		}
	}
	file := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(file, deb.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestUnpackedTreeLooksLikeAStoreObject(t *testing.T) {
	deb := writeDeb(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o777},
		tar.Header{Name: "./usr/tool", Typeflag: tar.TypeReg, Mode: 0o4755},
		tar.Header{Name: "./usr/hard", Typeflag: tar.TypeLink, Linkname: "./usr/tool"},
		tar.Header{Name: "./usr/data", Typeflag: tar.TypeReg, Mode: 0o600},
		tar.Header{Name: "./usr/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
	)
	dst := filepath.Join(testenv.Scratch(t), "object")
	if err := unpack(t.Context(), deb, dst); err != nil {
		t.Fatal(err)
	}
	want := map[string]fs.FileMode{
		".": fs.ModeDir | 0o555, "usr": fs.ModeDir | 0o555, "usr/tool": 0o555, "usr/hard": 0o555,
		"usr/data": 0o444, "usr/link": fs.ModeSymlink | 0o777,
	}
	for name, mode := range want {
		fi, err := os.Lstat(filepath.Join(dst, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if fi.Mode() != mode || fi.ModTime().Unix() != 1 {
			t.Errorf("%s is %v, modified %d; want %v, 1", name, fi.Mode(), fi.ModTime().Unix(), mode)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(dst, "usr", "hard")); string(got) != "content of ./usr/tool" {
		t.Errorf("the hard link's copy holds %q", got)
	}
	if got, _ := os.Readlink(filepath.Join(dst, "usr", "link")); got != "/etc/passwd" {
		t.Errorf("the symlink leads to %q", got)
	}
}

func TestHostilePackageStaysInItsDirectory(t *testing.T) {
	for name, files := range map[string][]tar.Header{
		"dotdot":                 {{Name: "../outside", Typeflag: tar.TypeReg, Mode: 0o644}},
		"absolute":               {{Name: "/outside", Typeflag: tar.TypeReg, Mode: 0o644}},
		"through a symlink":      {{Name: "way", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "way/outside", Typeflag: tar.TypeReg, Mode: 0o644}},
		"hard link to elsewhere": {{Name: "way", Typeflag: tar.TypeSymlink, Linkname: "/etc/hostname"}, {Name: "outside", Typeflag: tar.TypeLink, Linkname: "way"}},
	} {
		t.Run(name, func(t *testing.T) {
			parent := testenv.Scratch(t)
			dst := filepath.Join(parent, "object")
			err := unpack(t.Context(), writeDeb(t, files...), dst)
			if _, serr := os.Lstat(filepath.Join(parent, "outside")); serr == nil {
				t.Error("it wrote outside")
			}
			if inside, _ := os.ReadFile(filepath.Join(dst, "outside")); err == nil && !strings.HasPrefix(string(inside), "content of") {
				t.Error("no error, and no file inside")
			}
		})
	}
}

func TestUnsupportedFileTypeIsNamed(t *testing.T) {
	deb := writeDeb(t, tar.Header{Name: "dev/null", Typeflag: tar.TypeChar})
	err := unpack(t.Context(), deb, filepath.Join(testenv.Scratch(t), "object"))
	if err == nil || !strings.Contains(err.Error(), "dev/null") {
		t.Errorf("got %v", err)
	}
}
