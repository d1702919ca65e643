package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestMirrorIsTheFirstArchiveOfAPT(t *testing.T) {
	cases := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"one-line", map[string]string{"sources.list": "# deb http://no.example/debian x main\ndeb [arch=amd64] http://a.example/debian/ bookworm main\n"}, "http://a.example/debian"},
		{"deb822", map[string]string{"sources.list.d/debian.sources": "Types: deb\nURIs: https://b.example/x/debian\nSuites: trixie\n"}, "https://b.example/x/debian"},
		{"security only", map[string]string{"sources.list": "deb http://a.example/debian-security bookworm-security main\n"}, ""},
		{"another vendor first", map[string]string{
			"sources.list.d/0vendor.list":   "deb https://v.example/apt stable main\n",
			"sources.list.d/1.sources":      "URIs: http://c.example/debian\n",
			"sources.list.d/1.sources.save": "URIs: http://old.example/debian\n",
		}, "http://c.example/debian"},
		{"nothing", nil, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			etc := t.TempDir()
			for name, text := range c.files {
				writeFile(t, filepath.Join(etc, name), text)
			}
			got, err := mirrorIn(etc)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestParseStanzas(t *testing.T) {
	text := "Package: a\nVersion: 1\nDepends: b (>= 1) | c:any,\n d [amd64]\nPre-Depends: e\nInstalled-Size: 12\n" +
		"Description: x\n more\n .\n\n\n# no stanza\n"
	if _, err := ParseStanzas(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "line 12") {
		t.Errorf("a line without a colon: %v", err)
	}
	all, err := ParseStanzas(strings.NewReader(strings.TrimSuffix(text, "# no stanza\n") + "Package: z\nProvides: y (= 2), x"))
	if err != nil || len(all) != 2 {
		t.Fatalf("%d stanzas, %v", len(all), err)
	}
	want := [][]string{{"b", "c"}, {"d"}, {"e"}}
	if p := all[0]; p.Name != "a" || p.InstalledSize != 12 || !slices.EqualFunc(p.Depends, want, slices.Equal) {
		t.Errorf("first: %+v", p)
	}
	if p := all[1]; p.Name != "z" || !slices.Equal(p.Provides, []string{"y", "x"}) {
		t.Errorf("second: %+v", p)
	}
	if _, err := ParseStanzas(strings.NewReader("Package: a\nSize: -1\n")); err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("a negative size: %v", err)
	}
}

func FuzzParseStanzas(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nDepends: b | c, d\n\nPackage: e\n")
	f.Add("Package:\n folded\n\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseStanzas(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, p := range all {
			if p.Name == "" {
				t.Error("a package without a name")
			}
		}
	})
}

// ar puts members together as a .deb does.
func ar(members ...[2]string) []byte {
	out := bytes.NewBufferString(arMagic)
	for _, m := range members {
		fmt.Fprintf(out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", m[0], 0, 0, 0, 0o644, len(m[1]), m[1])
		if len(m[1])%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func controlTar(t testing.TB, text string) string {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	err := errors.Join(
		w.WriteHeader(&tar.Header{Name: "./control", Mode: 0o644, Size: int64(len(text))}),
		func() error { _, err := w.Write([]byte(text)); return err }(),
		w.Close(), z.Close())
	if err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestControlOfADeb(t *testing.T) {
	good := ar([2]string{"debian-binary", "2.0\n"}, [2]string{"odd", "x"}, [2]string{"control.tar.gz", controlTar(t, "Package: a\nVersion: 2\n")})
	cases := []struct {
		name string
		deb  []byte
		want string // part of the error; "": none
	}{
		{"good", good, ""},
		{"empty", nil, "not an ar archive"},
		{"no control member", ar([2]string{"debian-binary", "2.0\n"}), "no member control.tar"},
		{"cut off", good[:len(good)/2], ""},
		{"size not a number", bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1), "bad size"},
		{"size past the end", bytes.Replace(good, []byte("4         `"), []byte("4444444444`"), 1), "debian-binary"},
		{"unknown compression", ar([2]string{"control.tar.rar", "x"}), "unknown compression"},
		{"two stanzas", ar([2]string{"control.tar.gz", controlTar(t, "Package: a\n\nPackage: b\n")}), "2 stanzas"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.deb")
			writeFile(t, file, string(c.deb))
			p, err := Control(file)
			if c.name == "good" {
				if err != nil || p.Name != "a" || p.Version != "2" {
					t.Errorf("got %+v, %v", p, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("got %v, want an error that names the file and says %q", err, c.want)
			}
		})
	}
}

func FuzzDeb(f *testing.F) {
	f.Add(ar([2]string{"debian-binary", "2.0\n"}, [2]string{"data.tar.gz", controlTar(f, "Package: a\n")}))
	f.Fuzz(func(t *testing.T, deb []byte) {
		_ = walkMember(bytes.NewReader(deb), "data.tar", func(_ *tar.Header, r io.Reader) error {
			_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			return err
		})
	})
}

const body = "contents of a package file"

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// serve answers the first failures requests with 503 and then with answer.
func serve(t *testing.T, failures int32, answer http.HandlerFunc) (*Archive, *atomic.Int32) {
	t.Helper()
	var requests atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) <= failures {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return &Archive{URL: s.URL, Cache: filepath.Join(t.TempDir(), "cache"), Pause: time.Nanosecond}, &requests
}

func TestFileIsDownloadedOnceAndVerified(t *testing.T) {
	a, requests := serve(t, 2, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body+r.URL.Path) })
	sum := sha256Hex(body + "/pool/x.deb")
	for range 2 {
		file, err := a.File(t.Context(), "pool/x.deb", sum)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(file); string(got) != body+"/pool/x.deb" {
			t.Errorf("it holds %q", got)
		}
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests, want two that fail and one that does not", n)
	}
	offline := &Archive{Cache: a.Cache}
	if _, err := offline.File(t.Context(), "pool/x.deb", sum); err != nil {
		t.Errorf("without a mirror, from the cache: %v", err)
	}
	if _, err := offline.File(t.Context(), "pool/y.deb", sha256Hex("y")); !errors.Is(err, ErrNoMirror) {
		t.Errorf("without a mirror: %v", err)
	}
}

func TestBadDownloadsLeaveNothing(t *testing.T) {
	var gone *GoneError
	var sum *ChecksumError
	cases := []struct {
		name   string
		answer http.HandlerFunc
		target any
	}{
		{"404", http.NotFound, &gone},
		{"other bytes", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "evil") }, &sum},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, body)
		}, nil},
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, requests := serve(t, 0, c.answer)
			_, err := a.File(t.Context(), "pool/x.deb", sha256Hex(body))
			if err == nil || !strings.Contains(err.Error(), "pool/x.deb") || (c.target != nil && !errors.As(err, c.target)) {
				t.Errorf("got %v", err)
			}
			if want := map[bool]int32{true: 1, false: attempts}[c.name == "404"]; requests.Load() != want {
				t.Errorf("%d requests, want %d", requests.Load(), want)
			}
			if left, _ := os.ReadDir(a.Cache); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	if _, err := (&Archive{}).File(t.Context(), "pool/x.deb", "../../etc/passwd"); err == nil {
		t.Error("took a malformed sum")
	}
}
