package lazy_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/objstore"
	objhttp "github.com/strata-nix/strata/objstore/http"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
)

// web is a binary cache on a web server, which may answer in its own ways.
type web struct {
	origin lazy.Origin
	sent   atomic.Int64 // bytes of NARs
}

func newWeb(t *testing.T, form binarycache.Options, wrap func(http.ResponseWriter, *http.Request) http.ResponseWriter, o storetest.Object) *web {
	t.Helper()
	dir := testenv.Scratch(t)
	files, err := objstore.NewDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	form.URI, form.WriteIndex = "file://"+dir, true
	writer, err := binarycache.Open(files, form)
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
		t.Fatal(err)
	}
	w := &web{}
	serve := http.FileServer(http.Dir(dir))
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			rw = wrap(&sentCounter{rw, &w.sent}, r)
		}
		serve.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := filetransfer.New(filetransfer.Options{Connections: 8, Attempts: 3})
	t.Cleanup(client.CloseIdle)
	objects, err := objhttp.New(base, client)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := binarycache.Open(objects, binarycache.Options{URI: server.URL, TTL: diskcache.TTL{Positive: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	w.origin = lazy.Origin{Store: reader, Trusted: true}
	return w
}

type sentCounter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *sentCounter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// dropping breaks the connection after some bytes of an answer.
type dropping struct {
	http.ResponseWriter
	left int
}

func (d *dropping) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return d.ResponseWriter.Write(p)
}

func TestPartsFromAWebServer(t *testing.T) {
	o, files := large(t, "o")
	var faults atomic.Int64
	for name, c := range map[string]struct {
		wrap  func(http.ResponseWriter, *http.Request) http.ResponseWriter
		parts bool
	}{
		"with ranges": {func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter { return w }, true},
		"without ranges": {func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			r.Header.Del("Range")
			return w
		}, false},
		"with breaks in the middle": {func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
			if faults.Add(1)%2 == 1 {
				return &dropping{w, 20_000}
			}
			return w
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWeb(t, binarycache.Options{Compression: compress.Zstd, Seekable: true}, c.wrap, o)
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{w.origin}}, lazy.CacheOptions{})
			s.wants(o.Path(), "bin/hello", files["bin/hello"])
			if n := w.sent.Load(); c.parts && n > 200_000 {
				t.Errorf("%d bytes were sent for a small file", n)
			}
			if got := s.cache.Has(o.Path()); got && c.parts {
				t.Error("the whole object is here")
			}
			for f, content := range files {
				s.wants(o.Path(), f, content)
			}
			s.settled()
			here(t, s.cache)
			if n := s.store.Counts(); n.EIO != 0 || (n.Completed == 1) != c.parts || (n.Fetched == 1) == c.parts {
				t.Errorf("%+v", n)
			}
		})
	}
}
