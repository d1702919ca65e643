package binarycache_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/objstore"
	objhttp "github.com/strata-nix/strata/objstore/http"
	"github.com/strata-nix/strata/objstore/objstoretest"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// cacheOnWeb serves a cache whose server misbehaves as fault says, and opens it.
func cacheOnWeb(t *testing.T, objects objstore.Store, fault func(w http.ResponseWriter, r *http.Request, name string) bool) *binarycache.Store {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if fault != nil && fault(w, r, name) {
			return
		}
		body, _, err := objects.Get(r.Context(), name, objstore.GetOptions{})
		if err != nil {
			http.NotFound(w, r)
			return
		}
		data, err := io.ReadAll(body)
		if err != nil {
			panic(err)
		}
		w.Header().Set("ETag", `"1"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := filetransfer.New(filetransfer.Options{Connections: 4, Attempts: 3})
	t.Cleanup(client.CloseIdle)
	o, err := objhttp.New(u, client)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, o, func(o *binarycache.Options) { o.URI, o.Existing = u.String(), true })
}

// A server that is overloaded, has lost files, or says something else.
func TestServerFaults(t *testing.T) {
	memory := objstore.NewMemory()
	made := write(t, open(t, memory, func(o *binarycache.Options) { o.Compression = compress.Zstd }))
	big := made[5]
	infos, err := open(t, memory, nil).NarInfos(t.Context(), []storepath.Path{big.Path()})
	if err != nil {
		t.Fatal(err)
	}
	file := objstoretest.Get(t, memory, infos[0].URL)
	var failures atomic.Int32
	for name, c := range map[string]struct {
		fault func(w http.ResponseWriter, r *http.Request, name string) bool
		ok    bool
		err   error // nil: any
	}{
		"busy for a moment": {func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			if failures.Add(1)%2 == 1 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			return false
		}, true, nil},
		"NAR missing": {func(w http.ResponseWriter, _ *http.Request, name string) bool {
			if strings.HasPrefix(name, "nar/") {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			return false
		}, false, binarycache.ErrGone},
		"NAR of another": {func(w http.ResponseWriter, _ *http.Request, name string) bool {
			if strings.HasPrefix(name, "nar/") {
				io.WriteString(w, strings.Repeat("x", len(file)))
				return true
			}
			return false
		}, false, binarycache.ErrBadFile},
		"login page": {func(w http.ResponseWriter, _ *http.Request, name string) bool {
			if strings.HasSuffix(name, ".narinfo") {
				io.WriteString(w, "<html>please log in</html>")
				return true
			}
			return false
		}, false, binarycache.ErrBadFile},
		"narinfos without end": {func(w http.ResponseWriter, _ *http.Request, name string) bool {
			if !strings.HasSuffix(name, ".narinfo") {
				return false
			}
			for {
				if _, err := io.WriteString(w, strings.Repeat("X: y\n", 10_000)); err != nil {
					return true
				}
			}
		}, false, binarycache.ErrBadFile},
		"no cache": {func(w http.ResponseWriter, r *http.Request, _ string) bool { http.NotFound(w, r); return true }, false, binarycache.ErrNotCache},
	} {
		failures.Store(0)
		s := cacheOnWeb(t, memory, c.fault)
		var b bytes.Buffer
		err := s.NarFromPath(t.Context(), big.Path(), &b)
		if (err == nil) != c.ok || err != nil && (!errors.Is(err, c.err) || !strings.Contains(err.Error(), s.URI())) {
			t.Errorf("%s: %v", name, err)
		}
		if c.ok && !bytes.Equal(b.Bytes(), big.NAR) {
			t.Errorf("%s: %d bytes, want %d", name, b.Len(), len(big.NAR))
		}
	}
}

// A download that breaks off goes on, and is the whole in the end.
func TestDownloadGoesOn(t *testing.T) {
	memory := objstore.NewMemory()
	made := write(t, open(t, memory, nil))
	big := made[5]
	var first atomic.Bool
	s := cacheOnWeb(t, memory, func(w http.ResponseWriter, r *http.Request, name string) bool {
		if !strings.HasPrefix(name, "nar/") || r.Header.Get("Range") != "" || first.Swap(true) {
			return false
		}
		body, info, err := memory.Get(r.Context(), name, objstore.GetOptions{})
		if err != nil {
			panic(err)
		}
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Accept-Ranges", "bytes")
		http.ServeContent(&cutWriter{ResponseWriter: w, left: 100_000}, r, "", time.Time{}, bytes.NewReader(readAll(t, body, info.Size)))
		panic(http.ErrAbortHandler)
	})
	if got := narOf(t, s, big.Path()); !bytes.Equal(got, big.NAR) {
		t.Errorf("%d bytes, want %d", len(got), len(big.NAR))
	}
	if !first.Load() {
		t.Error("nothing broke off")
	}
}

func readAll(t *testing.T, body io.ReadCloser, size int64) []byte {
	t.Helper()
	defer body.Close()
	b := make([]byte, size)
	if _, err := io.ReadFull(body, b); err != nil {
		t.Error(err)
	}
	return b
}

// cutWriter takes so many bytes and no more.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		p = p[:c.left]
	}
	n, err := c.ResponseWriter.Write(p)
	if c.left -= n; c.left == 0 {
		if f, ok := c.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		return n, iotest.ErrTimeout
	}
	return n, err
}

// What a web server cannot do is told as that.
func TestWebCannot(t *testing.T) {
	memory := objstore.NewMemory()
	write(t, open(t, memory, nil))
	s := cacheOnWeb(t, memory, func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return false
		}
		w.WriteHeader(http.StatusMethodNotAllowed)
		return true
	})
	for _, err := range s.AllPaths(t.Context()) {
		if !errors.Is(err, store.ErrUnsupported) {
			t.Errorf("listing: %v", err)
		}
	}
	o := storetest.File(t, s.Dir(), "new", "new")
	if err := s.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err == nil || !strings.Contains(err.Error(), "405") {
		t.Errorf("adding: %v", err)
	}
	if v, err := s.ValidPaths(t.Context(), []storepath.Path{o.Path()}); err != nil || len(v) != 0 {
		t.Errorf("%v, %v", v, err)
	}
}
