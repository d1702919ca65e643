package filetransfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/activity"
)

// failing answers with a status as often as wanted, then well, and counts.
func failing(times, code int, header ...string) (http.HandlerFunc, *int) {
	var asked int
	return func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked > times {
			io.WriteString(w, "well")
			return
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		if code == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(code)
	}, &asked
}

// Upstream's idea of what passes.
func TestWhatIsTriedAgain(t *testing.T) {
	const attempts = 3
	for code, again := range map[int]bool{
		0: true, 400: false, 401: false, 403: false, 404: false, 405: false, 407: false, 408: true, 409: false, 410: false,
		416: false, 425: false, 429: true, 500: true, 501: false, 502: true, 503: true, 504: true, 505: false, 507: true, 511: false, 599: true,
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				h, asked := failing(attempts, code)
				n.serve("a:80", h)
				_, _, err := get(t, n.client(Options{Attempts: attempts}), &Request{URL: parsed(t, "http://a/x")})
				want := 1
				if again {
					want = attempts
				}
				if *asked != want || err == nil {
					t.Errorf("asked %d times: %v", *asked, err)
				}
				if s, ok := errors.AsType[*StatusError](err); code != 0 && (!ok || s.Code != code || s.Method != "GET" || s.URL != "http://a/x") {
					t.Errorf("error %#v", err)
				}
				if NotFound(err) != (code == 404 || code == 410) || Forbidden(err) != (code == 401 || code == 403 || code == 407) {
					t.Errorf("not found %v, forbidden %v", NotFound(err), Forbidden(err))
				}
			})
		})
	}
}

func TestItWorksInTheEnd(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		h, asked := failing(4, 500)
		n.serve("a:80", h)
		book := new(notebook)
		res, err := n.client(Options{Attempts: 5}).Get(activity.With(t.Context(), book), &Request{URL: parsed(t, "http://me:secret@a/x")})
		if err != nil || *asked != 5 {
			t.Fatalf("asked %d times: %v", *asked, err)
		}
		defer res.Body.Close()
		if len(book.logs) != 4 || !strings.HasPrefix(book.logs[0], "warning: unable to download 'http://a/x': HTTP error 500; retrying in ") ||
			!strings.HasSuffix(book.logs[0], " ms (attempt 1/5)") {
			t.Errorf("told %q", book.logs)
		}
	})
}

// Waits double, are not the same for all, and are what the server wants.
func TestWaits(t *testing.T) {
	const base = 250 * time.Millisecond
	for name, c := range map[string]struct {
		code     int
		header   []string
		times    int
		min, max time.Duration
	}{
		"once":                {500, nil, 1, base, 3 * base / 2},
		"four times":          {500, nil, 4, 15 * base, 23 * base},
		"reset":               {0, nil, 2, 3 * base, 9 * base / 2},
		"limited":             {429, nil, 1, time.Minute, 90 * time.Second},
		"limited twice":       {429, nil, 2, 3 * time.Minute, 270 * time.Second},
		"limited, for 2 s":    {429, []string{"Retry-After", "2"}, 1, 2 * time.Second, 3 * time.Second},
		"unavailable for 7 s": {503, []string{"Retry-After", "7"}, 1, 7 * time.Second, 8 * time.Second},
		"until a date":        {503, []string{"Retry-After", "Sat, 01 Jan 2000 00:00:30 GMT"}, 1, 30 * time.Second, 31 * time.Second},
		"date in the past":    {503, []string{"Retry-After", "Sat, 01 Jan 1990 00:00:30 GMT"}, 1, base, 3 * base / 2},
		"nonsense":            {503, []string{"Retry-After", "soon"}, 1, base, 3 * base / 2},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				h, _ := failing(c.times, c.code, c.header...)
				n.serve("a:80", h)
				start := time.Now()
				body, _, err := get(t, n.client(Options{Attempts: 10}), &Request{URL: parsed(t, "http://a/x")})
				if took := time.Since(start); err != nil || body != "well" || took < c.min || took > c.max {
					t.Errorf("took %v instead of %v to %v: %v", took, c.min, c.max, err)
				}
			})
		})
	}
	t.Run("too long", func(t *testing.T) {
		within(t, func(t *testing.T, n *network) {
			h, asked := failing(1, 503, "Retry-After", "86400")
			n.serve("a:80", h)
			start := time.Now()
			_, _, err := get(t, n.client(Options{Attempts: 10}), &Request{URL: parsed(t, "http://a/x")})
			if err == nil || *asked != 1 || time.Since(start) != 0 {
				t.Errorf("asked %d times in %v: %v", *asked, time.Since(start), err)
			}
		})
	})
}

func TestRefusedConnections(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		_, _, err := get(t, n.client(Options{Attempts: 3}), &Request{URL: parsed(t, "http://me:secret@nobody/x")})
		if e, ok := errors.AsType[*TransferError](err); !ok || e.URL != "http://nobody/x" || n.dials != 3 ||
			!strings.Contains(err.Error(), "unable to download 'http://nobody/x'") || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%d connections: %v", n.dials, err)
		}
	})
}

func TestImpossibleURLs(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		for _, u := range []string{"ftp://a/x", "file:///etc/passwd", "x", "http:///x", "unix:x"} {
			_, _, err := get(t, n.client(Options{Attempts: 3}), &Request{URL: parsed(t, u)})
			if !isType[*TransferError](err) || n.dials != 0 {
				t.Errorf("%s: %v", u, err)
			}
		}
	})
}

// A context that is done ends everything at once, and its cause is the error.
func TestCancel(t *testing.T) {
	stop := errors.New("never mind")
	for name, h := range map[string]http.HandlerFunc{
		"before an answer": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"in a wait":        func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) },
		"in the body": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				n.serve("a:80", h)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(10*time.Second, func() { cancel(stop) })
				start := time.Now()
				res, err := n.client(Options{Attempts: 3}).Get(ctx, &Request{URL: parsed(t, "http://a/x")})
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				if err != stop || time.Since(start) != 10*time.Second {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
			})
		})
	}
}

// Of all requests of a client only so many are under way at once, and those that
// wait for their next attempt are not.
func TestConnections(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		under := make(chan struct{}, 100)
		n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
			under <- struct{}{}
			io.WriteString(w, "x")
		})
		n.serve("b:80", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) })
		c := n.client(Options{Connections: 2, Attempts: 2})
		var bodies []io.Closer
		for range 2 {
			res, err := c.Get(t.Context(), &Request{URL: parsed(t, "http://a/x")})
			if err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, res.Body)
		}
		var finished atomic.Int32
		go func() {
			get(t, c, &Request{URL: parsed(t, "http://b/x")})
			finished.Add(1)
		}()
		for range 3 {
			go func() {
				get(t, c, &Request{URL: parsed(t, "http://a/x")})
				finished.Add(1)
			}()
		}
		synctest.Wait()
		if len(under) != 2 || finished.Load() != 0 {
			t.Errorf("%d requests were made, %d are done", len(under), finished.Load())
		}
		bodies[0].Close()
		synctest.Wait()
		if len(under) != 5 || finished.Load() != 3 {
			t.Errorf("%d requests were made, %d are done", len(under), finished.Load())
		}
		time.Sleep(2 * time.Minute) // in the bubble
		if finished.Load() != 4 {
			t.Errorf("%d are done", finished.Load())
		}
		bodies[1].Close()
	})
}
