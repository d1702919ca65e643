package filetransfer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/activity"
)

// A shelf keeps what is put there, after some failures.
type shelf struct {
	fail    func(w http.ResponseWriter, r *http.Request) bool
	asked   int
	kept    string
	headers http.Header
	length  int64
	method  string
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.asked++; s.fail != nil && s.fail(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.kept, s.headers, s.length, s.method = string(body), r.Header, r.ContentLength, r.Method
	w.WriteHeader(201)
	io.WriteString(w, "thank you")
}

// times fails so often.
func times(n int, f func(w http.ResponseWriter, r *http.Request)) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if n--; n < 0 {
			return false
		}
		f(w, r)
		return true
	}
}

func unavailable(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }

func reset(w http.ResponseWriter, r *http.Request) {
	io.CopyN(io.Discard, r.Body, 10)
	panic(http.ErrAbortHandler)
}

func TestPut(t *testing.T) {
	large := numbers(3 << 20)
	for name, c := range map[string]struct {
		fail  func(w http.ResponseWriter, r *http.Request) bool
		body  func() (io.ReadCloser, error)
		size  int64
		asked int
		ok    bool
	}{
		"at once":                  {nil, Bytes(large), int64(len(large)), 1, true},
		"a part of a file":         {nil, Section(bytes.NewReader(large), 1000), 1000, 1, true},
		"of unknown size":          {nil, Bytes(large), -1, 1, true},
		"nothing":                  {nil, Bytes(nil), 0, 1, true},
		"nothing, unknown":         {nil, Bytes(nil), -1, 1, true},
		"what can be had once":     {nil, Once(bytes.NewReader(large)), int64(len(large)), 1, true},
		"unavailable":              {times(2, unavailable), Bytes(large), int64(len(large)), 3, true},
		"reset":                    {times(2, reset), Bytes(large), int64(len(large)), 3, true},
		"reset, only once":         {times(2, reset), Once(bytes.NewReader(large)), int64(len(large)), 1, false},
		"not asked for, only once": {times(1, unavailable), Once(bytes.NewReader(large)), int64(len(large)), 2, true},
		"forbidden":                {times(9, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) }), Bytes(large), int64(len(large)), 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				s := &shelf{fail: c.fail}
				n.serve("a:80", s.ServeHTTP)
				res, err := n.client(Options{Attempts: 4}).Put(t.Context(), &Request{
					URL: parsed(t, "http://a/x"), Body: c.body, Size: c.size, ContentType: "application/x-nix-nar",
				})
				if s.asked != c.asked || (err == nil) != c.ok {
					t.Fatalf("asked %d times: %v", s.asked, err)
				}
				if err != nil {
					if errors.Is(err, ErrOnce) {
						t.Errorf("the reason was another: %v", err)
					}
					return
				}
				want := string(large)
				if c.size >= 0 {
					want = want[:c.size]
				} else if name == "nothing, unknown" {
					want = ""
				}
				reply, _ := io.ReadAll(res.Body)
				if s.kept != want || s.length != c.size || s.method != "PUT" || res.Code != 201 || string(reply) != "thank you" {
					t.Errorf("%d bytes of %d, %s: %d %q", len(s.kept), s.length, s.method, res.Code, reply)
				}
				if s.headers.Get("Content-Type") != "application/x-nix-nar" {
					t.Errorf("headers %v", s.headers)
				}
			})
		})
	}
}

// A body that cannot be read is not the server's fault, and no attempt is worth it.
func TestPutOfBrokenBody(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, c := range map[string]struct {
		body func() (io.ReadCloser, error)
		size int64
		want error
	}{
		"unreadable": {func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("begin"), iotest.ErrReader(broken))), nil
		}, 1000, broken},
		"unreadable, unknown size": {func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(broken)), nil }, -1, broken},
		"not there":                {func() (io.ReadCloser, error) { return nil, broken }, 1000, broken},
		"too short":                {Bytes([]byte("short")), 1000, errSize},
		"too long":                 {Bytes([]byte("long")), 3, errSize},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				s := new(shelf)
				n.serve("a:80", s.ServeHTTP)
				_, err := n.client(Options{Attempts: 4}).Put(t.Context(), &Request{URL: parsed(t, "http://a/x"), Body: c.body, Size: c.size})
				synctest.Wait() // for the server
				if !errors.Is(err, c.want) || !isType[*TransferError](err) || s.asked > 1 {
					t.Errorf("asked %d times: %v", s.asked, err)
				}
			})
		})
	}
}

type closeCounter struct {
	io.Reader
	closed *int
}

func (c closeCounter) Close() error { *c.closed++; return nil }

func TestPutClosesBodies(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		n.serve("a:80", (&shelf{fail: times(2, reset)}).ServeHTTP)
		opened, closed := 0, 0
		body := func() (io.ReadCloser, error) {
			opened++
			return closeCounter{bytes.NewReader(numbers(100_000)), &closed}, nil
		}
		_, err := n.client(Options{Attempts: 4}).Put(t.Context(), &Request{URL: parsed(t, "http://a/x"), Body: body, Size: 100_000})
		time.Sleep(time.Second)
		if err != nil || opened < 3 || opened != closed {
			t.Errorf("opened %d, closed %d: %v", opened, closed, err)
		}
	})
}

// Who is slow to make a body is waited for, a server that takes none is not.
func TestPutStalls(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		n.serve("slow:80", (&shelf{}).ServeHTTP)
		n.serve("stuck:80", func(w http.ResponseWriter, r *http.Request) {
			io.CopyN(io.Discard, r.Body, 10)
			time.Sleep(time.Hour)
		})
		c := n.client(Options{StalledTimeout: time.Minute})
		slow := func() (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() {
				for range 5 {
					time.Sleep(50 * time.Minute)
					io.WriteString(w, "x")
				}
				w.Close()
			}()
			return r, nil
		}
		if _, err := c.Put(t.Context(), &Request{URL: parsed(t, "http://slow/x"), Body: slow, Size: -1}); err != nil {
			t.Errorf("slow body: %v", err)
		}
		start := time.Now()
		_, err := c.Put(t.Context(), &Request{URL: parsed(t, "http://stuck/x"), Body: Bytes(numbers(1 << 20)), Size: 1 << 20})
		if !errors.Is(err, ErrStalled) || time.Since(start) > 2*time.Minute {
			t.Errorf("stuck server: after %v: %v", time.Since(start), err)
		}
		time.Sleep(time.Hour) // the server wakes up
	})
}

func TestPost(t *testing.T) {
	for name, c := range map[string]struct {
		fail  func(w http.ResponseWriter, r *http.Request) bool
		asked int
		ok    bool
	}{
		"at once":       {nil, 1, true},
		"unavailable":   {times(2, unavailable), 3, true},
		"reset":         {times(2, reset), 1, false},
		"broken inside": {times(2, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }), 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				s := &shelf{fail: c.fail}
				n.serve("a:80", s.ServeHTTP)
				_, err := n.client(Options{Attempts: 4}).Post(t.Context(), &Request{URL: parsed(t, "http://a/x"), Body: Bytes([]byte("data")), Size: 4})
				if s.asked != c.asked || (err == nil) != c.ok {
					t.Errorf("asked %d times: %v", s.asked, err)
				}
			})
		})
	}
	t.Run("refused", func(t *testing.T) {
		within(t, func(t *testing.T, n *network) {
			_, err := n.client(Options{Attempts: 4}).Post(t.Context(), &Request{URL: parsed(t, "http://nobody/x"), Body: Bytes([]byte("data")), Size: 4})
			if n.dials != 4 || err == nil || !strings.HasPrefix(err.Error(), "unable to upload 'http://nobody/x'") {
				t.Errorf("%d connections: %v", n.dials, err)
			}
		})
	})
}

func TestDelete(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		h, asked := failing(1, 500)
		n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "DELETE" {
				t.Error(r.Method)
			}
			h(w, r)
		})
		n.serve("b:80", http.NotFound)
		c := n.client(Options{Attempts: 2})
		if _, err := c.Delete(t.Context(), &Request{URL: parsed(t, "http://a/x")}); err != nil || *asked != 2 {
			t.Errorf("asked %d times: %v", *asked, err)
		}
		if _, err := c.Delete(t.Context(), &Request{URL: parsed(t, "http://b/x")}); !NotFound(err) || !strings.HasPrefix(err.Error(), "unable to delete") {
			t.Error(err)
		}
	})
}

func TestUploadActivity(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		n.serve("a:80", (&shelf{}).ServeHTTP)
		book := new(notebook)
		_, err := n.client(Options{}).Put(activity.With(t.Context(), book), &Request{URL: parsed(t, "http://a/x"), Body: Bytes(numbers(5000)), Size: 5000})
		if err != nil || len(book.started) != 1 || len(book.stopped) != 1 {
			t.Fatalf("%+v: %v", book, err)
		}
		if last := book.last[book.stopped[0]]; book.started[0].Text != "uploading 'http://a/x'" || last[0].Int != 5000 || last[1].Int != 5000 {
			t.Errorf("%+v, %v", book.started[0], last)
		}
	})
}
