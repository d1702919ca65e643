package http_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/objstore"
	objhttp "github.com/strata-nix/strata/objstore/http"
	"github.com/strata-nix/strata/objstore/objstoretest"
)

// web serves a storage below /base/.
type web struct {
	objects *objstore.Memory
	mu      sync.Mutex
	made    []string // requests
	fail    func(w http.ResponseWriter, r *http.Request) bool
}

func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.made = append(s.made, r.Method+" "+r.RequestURI)
	s.mu.Unlock()
	if s.fail != nil && s.fail(w, r) {
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/base/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	switch r.Method {
	case http.MethodPut:
		err := s.objects.Put(r.Context(), name, r.Body, objstore.PutOptions{Size: r.ContentLength, ContentEncoding: r.Header.Get("Content-Encoding")})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
	case http.MethodDelete:
		if err := s.objects.Delete(r.Context(), name); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	default:
		body, info, err := s.objects.Get(r.Context(), name, objstore.GetOptions{})
		if err != nil {
			http.NotFound(w, r)
			return
		}
		data, err := io.ReadAll(body)
		if err != nil {
			panic(err)
		}
		w.Header().Set("ETag", `"`+info.ETag+`"`)
		if info.ContentEncoding != "" {
			w.Header().Set("Content-Encoding", info.ContentEncoding)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func open(t *testing.T, fail func(http.ResponseWriter, *http.Request) bool) (objstore.Store, *web) {
	t.Helper()
	s := &web{objects: objstore.NewMemory(), fail: fail}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL + "/base")
	if err != nil {
		t.Fatal(err)
	}
	client := filetransfer.New(filetransfer.Options{Connections: 4})
	t.Cleanup(client.CloseIdle)
	o, err := objhttp.New(base, client)
	if err != nil {
		t.Fatal(err)
	}
	return o, s
}

func TestServer(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		o, _ := open(t, nil)
		return o
	})
}

// Names are spelled so that a server finds them, and what is asked behind them is
// left as it is.
func TestURLs(t *testing.T) {
	o, s := open(t, nil)
	objstoretest.Put(t, o, "nar/x", "x")
	s.made = nil
	for _, c := range []struct{ name, query, want string }{
		{"nar/x", "", "/base/nar/x"},
		{"nar/x", "hash=a&b=%2F", "/base/nar/x?hash=a&b=%2F"},
		{"a b%c?d#e", "", "/base/a%20b%25c%3Fd%23e"},
		{"realisations/sha256:0!out.doi", "", "/base/realisations/sha256:0%21out.doi"},
	} {
		s.made = nil
		if r, _, err := o.Get(t.Context(), c.name, objstore.GetOptions{Query: c.query}); err == nil {
			r.Close()
		}
		if len(s.made) != 1 || strings.ReplaceAll(s.made[0], "!", "%21") != "GET "+c.want {
			t.Errorf("%s: %q", c.name, s.made)
		}
	}
}

func TestAnswers(t *testing.T) {
	code := 0
	o, _ := open(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(code)
		return true
	})
	for _, c := range []struct {
		code int
		want error // nil: none of ours
	}{
		{http.StatusNotFound, objstore.ErrNotExist}, {http.StatusGone, objstore.ErrNotExist},
		{http.StatusForbidden, objstore.ErrForbidden}, {http.StatusUnauthorized, objstore.ErrForbidden},
		{http.StatusInternalServerError, nil}, {http.StatusMethodNotAllowed, nil},
	} {
		code = c.code
		_, _, get := o.Get(t.Context(), "x", objstore.GetOptions{})
		_, stat := o.Stat(t.Context(), "x")
		put := o.Put(t.Context(), "x", strings.NewReader("x"), objstore.PutOptions{Size: 1})
		for what, err := range map[string]error{"get": get, "stat": stat, "put": put} {
			if err == nil || errors.Is(err, objstore.ErrNotExist) != (c.want == objstore.ErrNotExist) || errors.Is(err, objstore.ErrForbidden) != (c.want == objstore.ErrForbidden) {
				t.Errorf("%s, %d: %v", what, c.code, err)
			}
		}
	}
}

// A server that answers before it has read a body does not get bytes of another.
func TestServerDoesNotRead(t *testing.T) {
	o, _ := open(t, func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	for range 20 {
		err := o.Put(t.Context(), "x", io.MultiReader(bytes.NewReader(make([]byte, 200_000))), objstore.PutOptions{Size: objstore.Unknown})
		if err == nil {
			t.Error("stored what nobody took")
		}
	}
}

func TestContentEncodingIsUndone(t *testing.T) {
	o, s := open(t, nil)
	gz := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcbH\xcd\xc9\xc9W(\xcf/\xcaI\x01\x00\x85\x11J\r\x0b\x00\x00\x00")
	err := o.Put(t.Context(), "log/x", bytes.NewReader(gz), objstore.PutOptions{Size: int64(len(gz)), ContentEncoding: "gzip"})
	if err != nil {
		t.Fatal(err)
	}
	if i, err := s.objects.Stat(t.Context(), "log/x"); err != nil || i.ContentEncoding != "gzip" {
		t.Errorf("stored as %+v, %v", i, err)
	}
	if got := objstoretest.Get(t, o, "log/x"); got != "hello world" {
		t.Errorf("%q", got)
	}
}

func TestNew(t *testing.T) {
	for _, text := range []string{"ftp://x/", "http:///x", "file:///x", "x"} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := objhttp.New(u, nil); err == nil {
			t.Errorf("%s: %+v", text, s)
		}
	}
}
