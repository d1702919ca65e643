package builtin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// site answers with what is at each path, and with 404 otherwise.
func site(t *testing.T, pages map[string]string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, ok := pages[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, page)
	}))
	t.Cleanup(s.Close)
	return s
}

func archive(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "x")
	makeTree(t, dir, files)
	var b bytes.Buffer
	if err := nar.Dump(t.Context(), &b, dir); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func packed(t *testing.T, m compress.Method, data string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := compress.NewWriter(t.Context(), m, &b, compress.Options{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFetchurl(t *testing.T) {
	files := map[string]string{"bin/x": "#!x", "y": "y", "z": "-> y"}
	unpacked := map[string]string{"bin/x*": "#!x", "y": "y", "z": "-> y"}
	tree, program := archive(t, files), archive(t, map[string]string{"": "#!x"})
	s := site(t, map[string]string{
		"/file": "contents", "/tree": tree, "/tree.xz": packed(t, compress.XZ, tree), "/program": program,
		"/file.xz": packed(t, compress.XZ, "contents"), "/broken": tree[:len(tree)-20], "/broken.xz": packed(t, compress.XZ, tree)[:90],
	})
	for name, c := range map[string]struct {
		env  map[string]string
		want map[string]string // nil: an error
	}{
		"a file":                    {map[string]string{"url": "/file"}, map[string]string{".": "contents"}},
		"empty attributes":          {map[string]string{"url": "/file", "unpack": "", "executable": ""}, map[string]string{".": "contents"}},
		"a program":                 {map[string]string{"url": "/file", "executable": "1"}, map[string]string{".*": "contents"}},
		"not to be decompressed":    {map[string]string{"url": "/file.xz"}, map[string]string{".": packed(t, compress.XZ, "contents")}},
		"an archive":                {map[string]string{"url": "/tree", "unpack": "1"}, unpacked},
		"an archive, compressed":    {map[string]string{"url": "/tree.xz", "unpack": "1"}, unpacked},
		"an archive of a program":   {map[string]string{"url": "/program", "unpack": "1", "executable": "1"}, map[string]string{".*": "#!x"}},
		"no archive":                {map[string]string{"url": "/file", "unpack": "1"}, nil},
		"a broken archive":          {map[string]string{"url": "/broken", "unpack": "1"}, nil},
		"broken and compressed":     {map[string]string{"url": "/broken.xz", "unpack": "1"}, nil},
		"nothing there":             {map[string]string{"url": "/none"}, nil},
		"no URL":                    {map[string]string{"url": "\x00"}, nil},
		"a scheme that there isn't": {map[string]string{"url": "gopher://x"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			env := maps.Clone(c.env)
			if strings.HasPrefix(env["url"], "/") {
				env["url"] = s.URL + env["url"]
			}
			w := newWorld(t, "fetchurl", env)
			err := w.run()
			if c.want == nil {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := w.output(); !maps.Equal(got, c.want) {
				t.Errorf("got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestFetchurlNeedsFixedOutput(t *testing.T) {
	for kind, ok := range map[derivation.Kind]bool{
		derivation.InputAddressed: false, derivation.Floating: false, derivation.Deferred: false, derivation.Fixed: true, derivation.Impure: true,
	} {
		w := newWorld(t, "fetchurl", map[string]string{"url": site(t, map[string]string{"/x": "x"}).URL + "/x"})
		w.Drv.Outputs["out"] = derivation.Output{Kind: kind}
		err := w.run()
		if (err == nil) != ok || err != nil && err.Error() != "'builtin:fetchurl' must be a fixed-output or impure derivation" {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
}

// Mirrors are asked first, by hash, and are not missed when they have nothing.
func TestHashedMirrors(t *testing.T) {
	hash := nixhash.Of(nixhash.SHA256, "contents")
	place := "/sha256/" + hash.Text(nixhash.Base16)
	mirror := site(t, map[string]string{place: "from the mirror", "/deep" + place: "from below"})
	origin := site(t, map[string]string{"/x": "contents"})
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "a part")
	}))
	t.Cleanup(broken.Close)
	for name, c := range map[string]struct {
		mirrors []string
		method  storepath.Method
		want    string
	}{
		"no mirror":            {nil, storepath.Flat, "contents"},
		"a mirror":             {[]string{mirror.URL}, storepath.Flat, "from the mirror"},
		"with a slash":         {[]string{mirror.URL + "/deep/"}, storepath.Flat, "from below"},
		"the second":           {[]string{origin.URL, mirror.URL}, storepath.Flat, "from the mirror"},
		"none has it":          {[]string{origin.URL, "file:///no-such-dir", "nonsense"}, storepath.Flat, "contents"},
		"one breaks off":       {[]string{broken.URL}, storepath.Flat, "contents"},
		"hashed in other ways": {[]string{mirror.URL}, storepath.Recursive, "contents"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "fetchurl", map[string]string{"url": origin.URL + "/x"})
			w.Drv.Outputs["out"] = derivation.Output{Kind: derivation.Fixed, CA: storepath.ContentAddress{Method: c.method, Hash: hash}}
			w.HashedMirrors = c.mirrors
			if err := w.run(); err != nil {
				t.Fatal(err)
			}
			if got := w.output()["."]; got != c.want {
				t.Errorf("got %q", got)
			}
		})
	}
}

// Files are read with the builder's rights, and not with ours.
func TestFetchFiles(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	makeTree(t, outside, map[string]string{"": "secret"})
	w := newWorld(t, "fetchurl", nil)
	object := w.add(map[string]string{"f": "from the store", "link": "-> " + outside, "with space": "blank"})
	for address, want := range map[string]string{
		"file://" + object + "/f":            "from the store",
		"file://localhost" + object + "/f":   "from the store",
		"file://" + object + "/with%20space": "blank",
		"file://" + object + "/link":         "",
		"file://" + outside:                  "",
		"file://elsewhere" + object + "/f":   "",
		"file://" + object:                   "",
		"file:///dev/zero":                   "",
	} {
		w.Drv.Env = map[string]string{"url": address}
		err := w.run()
		if (err == nil) != (want != "") || err == nil && w.output()["."] != want {
			t.Errorf("%s: %v", address, err)
		}
		if err := os.RemoveAll(w.Outputs["out"]); err != nil {
			t.Fatal(err)
		}
	}
	w.Outside = Everything
	w.Drv.Env = map[string]string{"url": "file://" + outside}
	if err := w.run(); err != nil || w.output()["."] != "secret" {
		t.Errorf("without a sandbox: %v", err)
	}
}

func TestOtherSchemes(t *testing.T) {
	w := newWorld(t, "fetchurl", map[string]string{"url": "s3://bucket/key"})
	w.Schemes = map[string]func(context.Context, *url.URL) (io.ReadCloser, error){
		"s3": func(_ context.Context, u *url.URL) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("from " + u.String())), nil
		},
	}
	if err := w.run(); err != nil || w.output()["."] != "from s3://bucket/key" {
		t.Errorf("%v", err)
	}
}

func TestFetchErrors(t *testing.T) {
	s := site(t, nil)
	w := newWorld(t, "fetchurl", map[string]string{"url": s.URL + "/none"})
	if err := w.run(); !filetransfer.NotFound(err) || !strings.HasPrefix(err.Error(), "unable to download '"+s.URL+"/none': HTTP error 404") {
		t.Error(err)
	}
	for _, u := range []string{"http://me:secret@x\x7f/", "nope://me:secret@x/", "file://me:secret@x/y"} {
		w.Drv.Env["url"] = u
		if err := w.run(); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", u, err)
		}
	}
	stop := errors.New("never mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	w.Drv.Env["url"] = s.URL
	if err := w.runWith(ctx); err != stop {
		t.Errorf("cancelled: %v", err)
	}
}
