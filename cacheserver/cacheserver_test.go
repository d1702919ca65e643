package cacheserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

const dir = storepath.DefaultDir

// cache is a server with a store of some objects, in memory.
type cache struct {
	t       *testing.T
	st      *memstore.Store
	objects []storetest.Object // the last one refers to the first
	server  *Server
	url     string
}

func (c *cache) tree() storetest.Object { return c.objects[len(c.objects)-1] }

// wrapped hides a store behind what a test makes of it.
type wrapped struct{ store.Store }

// Unwrap is for store.As.
func (w wrapped) Unwrap() store.Store { return w.Store }

func newCache(t *testing.T, o Options, wrap func(*cache) store.Store) *cache {
	t.Helper()
	c := &cache{t: t, st: memstore.New(dir)}
	text := storetest.File(t, dir, "text", "hello\n")
	tree := storetest.Tree(t, dir, "tree", map[string]string{
		"a": strings.Repeat("a", 5000), "bin/run": "#!/bin/sh\n", "share/empty": "", "share/z": strings.Repeat("z", 300_000),
	}, text.Path())
	c.objects = []storetest.Object{text, tree}
	for _, obj := range c.objects {
		if err := c.st.Add(t.Context(), obj.Info, obj.Reader(), store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	o.Store = c.st
	if wrap != nil {
		o.Store = wrap(c)
	}
	var err error
	if c.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(c.server)
	t.Cleanup(srv.Close)
	c.url = srv.URL
	return c
}

// files is a store whose objects are also files.
type files struct {
	wrapped
	real string
}

// RealDir makes it a store.Directory.
func (f files) RealDir() string { return f.real }

// asFiles restores the objects of a cache.
func asFiles(c *cache) store.Store {
	f := files{wrapped{c.st}, c.t.TempDir()}
	for _, o := range c.objects {
		if _, err := nar.Restore(c.t.Context(), o.Reader(), filepath.Join(f.real, o.Path().Base()), nar.RestoreOptions{}); err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _, _ = nar.RemoveTree(context.Background(), filepath.Join(f.real, o.Path().Base())) })
	}
	return f
}

// answer is a response that was read.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

func (c *cache) do(method, path string, header ...string) answer {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{Response: &http.Response{}, err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}
}

func (c *cache) get(path string, header ...string) answer {
	c.t.Helper()
	return c.do(http.MethodGet, path, header...)
}

func (c *cache) narinfo(o storetest.Object) *narinfo.NarInfo {
	c.t.Helper()
	a := c.get("/" + o.Path().HashPart() + ".narinfo")
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "text/x-nix-narinfo" {
		c.t.Fatalf("%v: %s", a.Status, a.body)
	}
	ni, err := narinfo.Parse(dir, "it", a.body)
	if err != nil {
		c.t.Fatal(err)
	}
	return ni
}

func TestNarinfoLeadsToTheNAR(t *testing.T) {
	for name, wrap := range map[string]func(*cache) store.Store{"memory": nil, "files": asFiles} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, Options{}, wrap)
			if a := c.get("/nix-cache-info"); string(a.body) != "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n" {
				t.Errorf("%s", a.body)
			}
			for _, o := range c.objects {
				ni := c.narinfo(o)
				if ni.FileHash != o.Info.NarHash || ni.FileSize != o.Info.NarSize || ni.Compression != "none" || len(ni.References) != len(o.Info.References) {
					t.Errorf("%+v", ni)
				}
				a := c.get("/" + ni.URL)
				if a.err != nil || !bytes.Equal(a.body, o.NAR) || a.ContentLength != int64(len(o.NAR)) {
					t.Errorf("%s: %d bytes of %d, length %d, %v", ni.URL, len(a.body), len(o.NAR), a.ContentLength, a.err)
				}
				if a.Header.Get("Accept-Ranges") != "bytes" || !strings.Contains(a.Header.Get("Cache-Control"), "immutable") {
					t.Errorf("%v", a.Header)
				}
			}
		})
	}
}

func TestNarinfoIsSignedOnTheFly(t *testing.T) {
	key, err := trust.GenerateKey("cache-1")
	if err != nil {
		t.Fatal(err)
	}
	own, err := trust.GenerateKey("own-1")
	if err != nil {
		t.Fatal(err)
	}
	c := newCache(t, Options{Keys: []trust.SecretKey{key}}, nil)
	info := c.tree().Info.Clone()
	if err := trust.Sign(info, dir, own); err != nil {
		t.Fatal(err)
	}
	if err := c.st.AddSignatures(t.Context(), info.Path, info.Signatures); err != nil {
		t.Fatal(err)
	}
	ni := c.narinfo(c.tree())
	if n := (trust.Keys{}).WithSecret(key, own).CountValid(&ni.PathInfo, dir); n != 2 {
		t.Errorf("%d good signatures among %q", n, ni.Signatures)
	}
	if infos, err := c.st.PathInfos(t.Context(), []storepath.Path{info.Path}); err != nil || len(infos[0].Signatures) != 1 {
		t.Errorf("the store has %q now, %v", infos[0].Signatures, err)
	}
	if a := c.get("/"); !strings.Contains(string(a.body), key.Public().String()) || !strings.Contains(string(a.body), c.url) {
		t.Errorf("%s", a.body)
	}
}

func TestRanges(t *testing.T) {
	for name, wrap := range map[string]func(*cache) store.Store{"memory": nil, "files": asFiles} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, Options{}, wrap)
			o := c.tree()
			url, size := "/"+c.narinfo(o).URL, len(o.NAR)
			for _, r := range []struct {
				text     string
				from, to int
			}{
				{"bytes=0-0", 0, 1}, {"bytes=10-20", 10, 21}, {"bytes=5000-", 5000, size},
				{"bytes=-7", size - 7, size}, {"bytes=100-99999999", 100, size}, {"bytes=0-", 0, size},
			} {
				a := c.get(url, "Range", r.text)
				want := "bytes " + strconv.Itoa(r.from) + "-" + strconv.Itoa(r.to-1) + "/" + strconv.Itoa(size)
				if a.StatusCode != http.StatusPartialContent || a.Header.Get("Content-Range") != want || !bytes.Equal(a.body, o.NAR[r.from:r.to]) {
					t.Errorf("%s: %s %q, %d bytes, %v", r.text, a.Status, a.Header.Get("Content-Range"), len(a.body), a.err)
				}
			}
			if a := c.get(url, "Range", "bytes="+strconv.Itoa(size)+"-"); a.StatusCode != http.StatusRequestedRangeNotSatisfiable {
				t.Error(a.Status)
			}
			for _, text := range []string{"bytes=0-1,5-6", "lines=1-2"} {
				if a := c.get(url, "Range", text); text[0] == 'b' && (a.StatusCode != http.StatusOK || !bytes.Equal(a.body, o.NAR)) {
					t.Errorf("%s: %s", text, a.Status)
				}
			}
			tag := c.do(http.MethodHead, url).Header.Get("Etag")
			if a := c.get(url, "Range", "bytes=1-2", "If-Range", tag); a.StatusCode != http.StatusPartialContent {
				t.Error(a.Status)
			}
			if a := c.get(url, "Range", "bytes=1-2", "If-Range", `"other"`); a.StatusCode != http.StatusOK || !bytes.Equal(a.body, o.NAR) {
				t.Error(a.Status)
			}
		})
	}
}

func TestConditionsAndHead(t *testing.T) {
	c := newCache(t, Options{}, nil)
	o := c.tree()
	ni := c.narinfo(o)
	hash := "/" + o.Path().HashPart()
	for _, path := range []string{"/" + ni.URL, hash + ".narinfo", hash + ".ls", "/nix-cache-info", "/" + ni.URL + ".xz"} {
		head := c.do(http.MethodHead, path)
		if head.StatusCode != http.StatusOK || len(head.body) != 0 || head.Header.Get("Etag") == "" {
			t.Errorf("HEAD %s: %s, %v", path, head.Status, head.Header)
		}
		if !strings.HasSuffix(path, ".xz") {
			if got := c.get(path); head.ContentLength != int64(len(got.body)) || head.ContentLength == 0 {
				t.Errorf("HEAD %s: length %d, there are %d bytes", path, head.ContentLength, len(got.body))
			}
		}
		a := c.get(path, "If-None-Match", `"x", `+head.Header.Get("Etag"))
		if a.StatusCode != http.StatusNotModified || len(a.body) > 0 {
			t.Errorf("%s again: %s", path, a.Status)
		}
		if a := c.get(path, "If-None-Match", `"x"`); a.StatusCode != http.StatusOK {
			t.Errorf("another %s: %s", path, a.Status)
		}
	}
}

func TestCompressionByURL(t *testing.T) {
	for _, m := range compress.Methods {
		c := newCache(t, Options{Compression: m}, asFiles)
		ni := c.narinfo(c.tree())
		if ni.Compression != string(m) || (m != compress.None) != ni.FileHash.IsZero() {
			t.Errorf("%s: %+v", m, ni)
		}
		a := c.get("/" + ni.URL)
		r, err := compress.NewReader(t.Context(), m, bytes.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || a.err != nil || !bytes.Equal(got, c.tree().NAR) {
			t.Errorf("%s: %d bytes, %v, %v", m, len(got), a.err, err)
		}
		_ = r.Close()
	}
}

func TestCompressionByEncoding(t *testing.T) {
	c := newCache(t, Options{Encode: true}, nil)
	url := "/" + c.narinfo(c.tree()).URL
	a := c.get(url, "Accept-Encoding", "gzip, zstd;q=0.5")
	if a.Header.Get("Content-Encoding") != "zstd" || a.Header.Get("Vary") != "Accept-Encoding" {
		t.Fatalf("%v", a.Header)
	}
	r, err := compress.NewReader(t.Context(), compress.Zstd, bytes.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, c.tree().NAR) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, accept := range []string{"gzip", "zstd;q=0", "zstd2"} {
		if a := c.get(url, "Accept-Encoding", accept); a.Header.Get("Content-Encoding") != "" || !bytes.Equal(a.body, c.tree().NAR) {
			t.Errorf("%s: %v", accept, a.Header)
		}
	}
	if a := c.get(url, "Accept-Encoding", "zstd", "Range", "bytes=0-3"); a.StatusCode != http.StatusPartialContent || a.Header.Get("Content-Encoding") != "" {
		t.Errorf("a range: %s, %v", a.Status, a.Header)
	}
}

func TestListing(t *testing.T) {
	for name, wrap := range map[string]func(*cache) store.Store{"memory": nil, "files": asFiles} {
		c := newCache(t, Options{}, wrap)
		o := c.tree()
		want, err := nar.List(o.Reader())
		if err != nil {
			t.Fatal(err)
		}
		a := c.get("/" + o.Path().HashPart() + ".ls")
		got, err := nar.ReadListing(bytes.NewReader(a.body))
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, a.body)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestLogsAndRealisations(t *testing.T) {
	key, err := trust.GenerateKey("k")
	if err != nil {
		t.Fatal(err)
	}
	c := newCache(t, Options{Keys: []trust.SecretKey{key}}, nil)
	drv, err := storepath.ParseBase("00000000000000000000000000000000-x.drv")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.st.AddBuildLog(t.Context(), drv, strings.NewReader("built\n")); err != nil {
		t.Fatal(err)
	}
	if a := c.get("/log/" + drv.Base()); string(a.body) != "built\n" || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%s %v", a.body, a.Header)
	}
	if a := c.do(http.MethodHead, "/log/"+drv.Base()); a.StatusCode != http.StatusOK || len(a.body) > 0 {
		t.Error(a.Status)
	}
	if a := c.get("/log/" + c.tree().Path().Base()); a.StatusCode != http.StatusNotFound {
		t.Error(a.Status)
	}
	re := &store.Realisation{ID: store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, "drv"), Output: "out"}, OutPath: c.tree().Path()}
	if err := c.st.RegisterRealisations(t.Context(), []*store.Realisation{re}); err != nil {
		t.Fatal(err)
	}
	a := c.get("/realisations/" + re.ID.String() + ".doi")
	var got store.Realisation
	if err := got.UnmarshalJSON(a.body); err != nil || got.OutPath != re.OutPath || (trust.Keys{}).WithSecret(key).CountValidRealisation(&got) != 1 {
		t.Errorf("%v: %s", err, a.body)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	c := newCache(t, Options{}, asFiles)
	o := c.tree()
	ni := c.narinfo(o)
	nobody := strings.Repeat("0", 32)
	for _, path := range []string{
		"/" + nobody + ".narinfo", "/" + nobody + ".ls", "/" + strings.Replace(ni.URL, o.Path().HashPart(), nobody, 1),
		"/" + strings.Replace(ni.URL, ni.NarHash.Digest(nixhash.Nix32), strings.Repeat("0", 52), 1),
		"/" + strings.Replace(ni.URL, ni.NarHash.Digest(nixhash.Nix32), ni.NarHash.Digest(nixhash.Base16), 1),
		"/" + ni.URL + ".lz4", "/" + ni.URL + "x", "/" + ni.URL + "/", "/nar/", "/nar/../nix-cache-info", "/../etc/passwd",
		"/%2e%2e/%2e%2e/etc/passwd", "/nar/..%2f..%2fetc%2fpasswd", "/log/..%2f..%2fetc%2fpasswd", "/log/", "/realisations/x.doi",
		"/realisations/sha256:" + strings.Repeat("0", 64) + "!out.doi", "//nix-cache-info", "/NIX-CACHE-INFO",
		"/" + o.Path().Base() + ".narinfo", "/" + o.Path().HashPart(), "/" + strings.ToUpper(o.Path().HashPart()) + ".narinfo",
		"/nix/store/" + o.Path().Base(), "/" + strings.Repeat("a", 5000),
	} {
		if a := c.get(path); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s, %v", path, a.Status, a.err)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodDelete, "BREW"} {
		if a := c.do(method, "/nix-cache-info"); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %s", method, a.Status)
		}
	}
}

// faulty fails as it is told to.
type faulty struct {
	wrapped
	gone atomic.Bool
	nar  func(w io.Writer, archive []byte) error
}

var errGone = errors.New("the disk is on fire in room 17")

// PathFromHashPart implements store.HashPartQuerier.
func (f *faulty) PathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error) {
	if f.gone.Load() {
		return storepath.Path{}, errGone
	}
	q, _ := store.As[store.HashPartQuerier](f.Store)
	return q.PathFromHashPart(ctx, hashPart)
}

// NarFromPath implements store.NarSource.
func (f *faulty) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	var b bytes.Buffer
	source, _ := store.As[store.NarSource](f.Store)
	if err := source.NarFromPath(ctx, p, &b); err != nil {
		return err
	}
	return f.nar(w, b.Bytes())
}

func TestAStoreThatCannotBeAsked(t *testing.T) {
	f := &faulty{}
	c := newCache(t, Options{}, func(c *cache) store.Store { f.Store = c.st; return f })
	hash := "/" + c.tree().Path().HashPart()
	f.gone.Store(true)
	for _, path := range []string{hash + ".narinfo", hash + ".ls", "/" + narName{hashPart: hash[1:], hash: c.tree().Info.NarHash, method: "none"}.url(), "/healthz"} {
		a := c.get(path)
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || strings.Contains(string(a.body), "room") {
			t.Errorf("%s: %s: %s", path, a.Status, a.body)
		}
	}
	f.gone.Store(false)
	if a := c.get(hash + ".narinfo"); a.StatusCode != http.StatusOK {
		t.Errorf("when it is back: %s", a.Status)
	}
	if a := c.get("/healthz"); string(a.body) != "ok\n" {
		t.Errorf("%s", a.body)
	}
	if a := c.get("/metrics"); !strings.Contains(string(a.body), "strata_cache_store_failures_total 4") ||
		!strings.Contains(string(a.body), `strata_cache_requests_total{kind="narinfo",status="503"} 1`) {
		t.Errorf("%s", a.body)
	}
}

func TestANARThatIsNotAsPromisedIsCutOff(t *testing.T) {
	for name, spoil := range map[string]func(w io.Writer, archive []byte) error{
		"shorter": func(w io.Writer, archive []byte) error {
			_, err := w.Write(archive[:len(archive)/2])
			return err
		},
		"longer": func(w io.Writer, archive []byte) error {
			_, err := io.Copy(w, io.MultiReader(bytes.NewReader(archive), strings.NewReader("more")))
			return err
		},
		"failing": func(w io.Writer, archive []byte) error {
			_, err := w.Write(archive[:100_000])
			return errors.Join(err, errGone)
		},
	} {
		f := &faulty{nar: spoil}
		c := newCache(t, Options{Encode: true}, func(c *cache) store.Store { f.Store = c.st; return f })
		url := "/" + c.narinfo(c.tree()).URL
		for _, how := range [][]string{{url}, {url, "Range", "bytes=20-"}, {url + ".xz"}, {url + ".zst"}, {url, "Accept-Encoding", "zstd"}} {
			if name == "longer" && how[0] == url && (len(how) == 1 || how[1] == "Range") {
				continue // what was promised has gone out by then, and no more does
			}
			if a := c.get(how[0], how[1:]...); a.err == nil && a.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: %v: %s, %d bytes, without an error", name, how, a.Status, len(a.body))
			}
		}
	}
}

func TestAStoreWithoutContentsIsRefused(t *testing.T) {
	_, err := New(Options{Store: bare{memstore.New(dir)}})
	if !errors.Is(err, store.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := New(Options{Store: memstore.New(dir), Compression: "zip"}); err == nil {
		t.Error("no error about the compression")
	}
}

// bare is a store and nothing else.
type bare struct{ store.Store }

// Files that vanish while the store believes in them are told as a failure.
func TestFilesThatVanish(t *testing.T) {
	c := newCache(t, Options{}, asFiles)
	f, _ := c.server.o.Store.(files)
	url := "/" + c.narinfo(c.tree()).URL
	share := filepath.Join(f.real, c.tree().Path().Base(), "share")
	if err := os.Chmod(share, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(share, "z")); err != nil {
		t.Fatal(err)
	}
	for _, header := range [][]string{nil, {"Range", "bytes=5-"}} {
		if a := c.get(url, header...); a.err == nil && a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s, %d bytes", a.Status, len(a.body))
		}
	}
}

func FuzzRoute(f *testing.F) {
	s, err := New(Options{Store: memstore.New(dir)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if kind, h := s.route(path); kind == "" || h == nil {
			t.Errorf("%q: %q", path, kind)
		}
		if n, err := parseNarName(path); err == nil && n.url() != "nar/"+path {
			t.Errorf("%q is %q", path, n.url())
		}
	})
}
