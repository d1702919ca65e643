package filetransfer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/activity"
)

// A flaky server breaks the connection after every so many bytes of a body.
type flaky struct {
	body     []byte
	header   http.Header // of every answer
	after    int
	breaks   int                                               // how often
	noRanges bool                                              // it does not know them
	second   func(w http.ResponseWriter, r *http.Request) bool // answers all but the first, if it likes to
	asked    []string                                          // header Range of requests
	ifRange  []string
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked = append(f.asked, r.Header.Get("Range"))
	f.ifRange = append(f.ifRange, r.Header.Get("If-Range"))
	for name, values := range f.header {
		w.Header()[name] = values
	}
	if len(f.asked) > 1 && f.second != nil && f.second(w, r) {
		return
	}
	from := 0
	if v, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !f.noRanges {
		from, _ = strconv.Atoi(strings.TrimSuffix(v, "-"))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(f.body)-1, len(f.body)))
	}
	rest := f.body[from:]
	if f.header.Get("Transfer-Encoding") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	}
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	if f.breaks--; f.breaks >= 0 && len(rest) > f.after {
		w.Write(rest[:f.after])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Write(rest)
}

func numbers(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.Bytes()[:n]
}

const longAgo, date = "Fri, 31 Dec 1999 10:00:00 GMT", "Sat, 01 Jan 2000 00:00:00 GMT"

func TestBrokenBodies(t *testing.T) {
	changed := func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("ETag", `"two"`)
		io.WriteString(w, "something else")
		return true
	}
	part := func(h string, tag string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("ETag", tag)
			w.Header().Set("Content-Range", h)
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, "xxxx")
			return true
		}
	}
	status := func(code int) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(code)
			return true
		}
	}
	tag := http.Header{"Etag": {`"one"`}}
	for name, c := range map[string]struct {
		server flaky
		err    error // nil: all is there
		asked  int
	}{
		"with a tag":                  {flaky{header: tag, breaks: 3}, nil, 4},
		"with a time":                 {flaky{header: http.Header{"Last-Modified": {longAgo}, "Date": {date}}, breaks: 3}, nil, 4},
		"of unknown length":           {flaky{header: http.Header{"Etag": {`"one"`}, "Transfer-Encoding": {"chunked"}}, breaks: 2}, nil, 3},
		"without ranges":              {flaky{header: tag, breaks: 3, noRanges: true}, nil, 4},
		"with nothing to go by":       {flaky{breaks: 1}, io.ErrUnexpectedEOF, 1},
		"with a weak tag":             {flaky{header: http.Header{"Etag": {`W/"one"`}}, breaks: 1}, io.ErrUnexpectedEOF, 1},
		"modified just now":           {flaky{header: http.Header{"Last-Modified": {date}, "Date": {date}}, breaks: 1}, io.ErrUnexpectedEOF, 1},
		"that may not be asked for":   {flaky{header: http.Header{"Etag": {`"one"`}, "Accept-Ranges": {"none"}}, breaks: 1}, io.ErrUnexpectedEOF, 1},
		"too often":                   {flaky{header: tag, breaks: 99, after: 10}, io.ErrUnexpectedEOF, 5},
		"that changed":                {flaky{header: tag, breaks: 1, second: changed}, ErrChanged, 2},
		"that changed, as a part":     {flaky{header: tag, breaks: 1, second: part("bytes 3000-9999/10000", `"two"`)}, ErrChanged, 2},
		"that lost its tag":           {flaky{header: tag, breaks: 1, second: part("bytes 3000-9999/10000", "")}, ErrChanged, 2},
		"that goes on elsewhere":      {flaky{header: tag, breaks: 1, second: part("bytes 2000-9999/10000", `"one"`)}, ErrChanged, 2},
		"that has grown":              {flaky{header: tag, breaks: 1, second: part("bytes 3000-10999/11000", `"one"`)}, ErrChanged, 2},
		"that goes on nowhere":        {flaky{header: tag, breaks: 1, second: part("bytes or so", `"one"`)}, nil, -2},
		"that is gone":                {flaky{header: tag, breaks: 1, second: status(404)}, nil, -2},
		"that may not be had":         {flaky{header: tag, breaks: 1, second: status(403)}, nil, -2},
		"that is shorter":             {flaky{header: tag, breaks: 1, second: status(416)}, nil, -2},
		"of a server that is strange": {flaky{header: tag, breaks: 1, second: status(304)}, ErrChanged, 2},
		"of a server that is tired":   {flaky{header: tag, breaks: 1, second: status(503)}, nil, -5},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				f := c.server
				f.body = numbers(10_000)
				if f.after == 0 {
					f.after = 3000
				}
				n.serve("a:80", f.ServeHTTP)
				body, res, err := get(t, n.client(Options{Attempts: 5}), &Request{URL: parsed(t, "http://a/x")})
				if res == nil {
					t.Fatal(err)
				}
				if len(f.asked) != max(c.asked, -c.asked) {
					t.Errorf("asked for %q", f.asked)
				}
				if !strings.HasPrefix(string(f.body), body) {
					t.Error("what came is not what there is")
				}
				switch {
				case c.asked < 0 && err == nil:
					t.Error("no error")
				case c.asked < 0:
				case c.err == nil && (err != nil || len(body) != len(f.body)):
					t.Errorf("%d bytes: %v", len(body), err)
				case c.err != nil && (!errors.Is(err, c.err) || !isType[*TransferError](err)):
					t.Errorf("%d bytes: %v", len(body), err)
				}
				for i, v := range f.ifRange[1:] {
					if v == "" || f.asked[i+1] == "" {
						t.Errorf("asked for %q if %q", f.asked, f.ifRange)
					}
				}
			})
		})
	}
}

// A long download may break any number of times, as long as it gets on.
func TestProgressCounts(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		f := flaky{body: numbers(10 * enough), after: enough + 1, breaks: 99, header: http.Header{"Etag": {`"one"`}}}
		n.serve("a:80", f.ServeHTTP)
		body, _, err := get(t, n.client(Options{Attempts: 2}), &Request{URL: parsed(t, "http://a/x")})
		if err != nil || body != string(f.body) || len(f.asked) != 10 {
			t.Errorf("%d bytes, asked %d times: %v", len(body), len(f.asked), err)
		}
	})
}

func TestParts(t *testing.T) {
	data := numbers(1000)
	for _, ranges := range []bool{true, false} {
		for _, tag := range []string{`"one"`, ""} {
			for _, c := range []struct{ offset, length, end int64 }{
				{0, 0, 1000}, {0, 10, 10}, {100, 0, 1000}, {100, 50, 150}, {990, 50, 1000}, {999, 1, 1000}, {0, 5000, 1000},
			} {
				t.Run(fmt.Sprint(ranges, tag, c), func(t *testing.T) {
					within(t, func(t *testing.T, n *network) {
						n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
							if tag != "" {
								w.Header().Set("ETag", tag)
							}
							if !ranges {
								r.Header.Del("Range")
							}
							http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(data))
						})
						body, res, err := get(t, n.client(Options{}), &Request{URL: parsed(t, "http://a/x"), Offset: c.offset, Length: c.length})
						if err != nil || body != string(data[c.offset:c.end]) || res.Size != c.end-c.offset || res.Total != 1000 {
							t.Errorf("%q, size %d of %d: %v", body, res.Size, res.Total, err)
						}
					})
				})
			}
			for _, offset := range []int64{1000, 5000} {
				within(t, func(t *testing.T, n *network) {
					n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
						if !ranges {
							r.Header.Del("Range")
						}
						http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(data))
					})
					_, _, err := get(t, n.client(Options{}), &Request{URL: parsed(t, "http://a/x"), Offset: offset})
					if s, ok := errors.AsType[*StatusError](err); !ok || s.Code != 416 {
						t.Errorf("offset %d: %v", offset, err)
					}
				})
			}
		}
	}
}

// A part breaks too, and a server may send less than it was asked for.
func TestBrokenParts(t *testing.T) {
	data := numbers(10_000)
	within(t, func(t *testing.T, n *network) {
		n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
			var from, to int
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
			if to != 7999 {
				t.Errorf("asked for %s", r.Header.Get("Range"))
			}
			w.Header().Set("ETag", `"one"`)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/10000", from, min(to, from+1999)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data[from:min(to+1, from+2000)])
		})
		body, res, err := get(t, n.client(Options{Attempts: 5}), &Request{URL: parsed(t, "http://a/x"), Offset: 1000, Length: 7000})
		if err != nil || body != string(data[1000:8000]) || res.Size != 7000 || res.Total != 10_000 {
			t.Errorf("%d bytes: %v", len(body), err)
		}
	})
}

func TestLyingServers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"another part": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(206)
			io.WriteString(w, "0123456789")
		},
		"no part": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(206)
			io.WriteString(w, "0123456789")
		},
		"a part of less": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-9/7")
			w.WriteHeader(206)
			io.WriteString(w, "01234")
		},
		"more than announced": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-6/7")
			w.WriteHeader(206)
			io.WriteString(w, "0123456789")
		},
		"less than announced": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-6/7")
			w.WriteHeader(206)
			io.WriteString(w, "0")
			w.(http.Flusher).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				n.serve("a:80", h)
				body, _, err := get(t, n.client(Options{Attempts: 2}), &Request{URL: parsed(t, "http://a/x"), Offset: 5})
				if !isType[*TransferError](err) {
					t.Errorf("%q: %v", body, err)
				}
			})
		})
	}
}

func TestStalls(t *testing.T) {
	quiet := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, h := range map[string]http.HandlerFunc{
		"no answer": quiet,
		"no more": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			quiet(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, n *network) {
				n.serve("a:80", h)
				start := time.Now()
				_, _, err := get(t, n.client(Options{StalledTimeout: time.Minute}), &Request{URL: parsed(t, "http://a/x")})
				if !errors.Is(err, ErrStalled) || !isType[*TransferError](err) || time.Since(start) != time.Minute {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
			})
		})
	}
	t.Run("then goes on", func(t *testing.T) {
		within(t, func(t *testing.T, n *network) {
			f := flaky{body: numbers(10_000), header: http.Header{"Etag": {`"one"`}}}
			first := true
			n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
				if first {
					first = false
					w.Header().Set("ETag", `"one"`)
					w.Header().Set("Content-Length", "10000")
					w.Write(f.body[:100])
					w.(http.Flusher).Flush()
					quiet(w, r)
					return
				}
				f.ServeHTTP(w, r)
			})
			body, _, err := get(t, n.client(Options{StalledTimeout: time.Minute, Attempts: 2}), &Request{URL: parsed(t, "http://a/x")})
			if err != nil || body != string(f.body) || f.asked[0] != "bytes=100-" {
				t.Errorf("%d bytes, asked for %q: %v", len(body), f.asked, err)
			}
		})
	})
	t.Run("slow is not stalled", func(t *testing.T) {
		within(t, func(t *testing.T, n *network) {
			n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
				for range 20 {
					time.Sleep(50 * time.Second)
					io.WriteString(w, "x")
					w.(http.Flusher).Flush()
				}
			})
			body, _, err := get(t, n.client(Options{StalledTimeout: time.Minute}), &Request{URL: parsed(t, "http://a/x")})
			if err != nil || len(body) != 20 {
				t.Errorf("%q: %v", body, err)
			}
		})
	})
	t.Run("nor is who does not read", func(t *testing.T) {
		within(t, func(t *testing.T, n *network) {
			n.serve("a:80", func(w http.ResponseWriter, r *http.Request) { w.Write(numbers(1 << 20)) })
			res, err := n.client(Options{StalledTimeout: time.Minute}).Get(t.Context(), &Request{URL: parsed(t, "http://a/x")})
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			time.Sleep(time.Hour)
			if body, err := io.ReadAll(res.Body); err != nil || len(body) != 1<<20 {
				t.Errorf("%d bytes: %v", len(body), err)
			}
		})
	})
}

func TestSpeed(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		n.serve("a:80", func(w http.ResponseWriter, r *http.Request) { w.Write(numbers(100_000)) })
		start := time.Now()
		body, _, err := get(t, n.client(Options{Speed: 10_000}), &Request{URL: parsed(t, "http://a/x")})
		if took := time.Since(start); err != nil || len(body) != 100_000 || took < 9*time.Second || took > 11*time.Second {
			t.Errorf("%d bytes in %v: %v", len(body), took, err)
		}
	})
}

func TestNotModified(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
			switch r.Header.Get("If-None-Match") {
			case `"one"`:
				w.WriteHeader(304) // without the tag
			case `"two"`: // as GitHub does
				w.Header().Set("ETag", `"two"`)
				io.WriteString(w, "all of it")
			default:
				w.Header().Set("ETag", `"three"`)
				io.WriteString(w, "all of it")
			}
		})
		for tag, want := range map[string]bool{`"one"`: true, `"two"`: true, `"old"`: false, "": false} {
			body, res, err := get(t, n.client(Options{}), &Request{URL: parsed(t, "http://a/x"), ETag: tag})
			if err != nil || res.NotModified != want || (body == "") != want || want && res.ETag != tag || !want && res.ETag != `"three"` {
				t.Errorf("%s: %+v, %q, %v", tag, res, body, err)
			}
		}
	})
}

func TestHead(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "HEAD" {
				t.Error(r.Method)
			}
			w.Header().Set("Content-Length", "12345")
			w.Header().Set("ETag", `"one"`)
		})
		res, err := n.client(Options{}).Head(t.Context(), &Request{URL: parsed(t, "http://a/x")})
		if err != nil || res.Size != 12345 || res.ETag != `"one"` || res.Code != 200 {
			t.Errorf("%+v: %v", res, err)
		}
	})
}

// Stock clients show downloads with their address and how far they are.
func TestActivities(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		f := flaky{body: numbers(10_000), after: 3000, breaks: 2, header: http.Header{"Etag": {`"one"`}}}
		n.serve("a:80", f.ServeHTTP)
		c := n.client(Options{Attempts: 3})
		book := new(notebook)
		ctx := activity.With(t.Context(), book)
		res, err := c.Get(ctx, &Request{URL: parsed(t, "http://me:secret@a/x")})
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		if len(book.stopped) != 1 {
			t.Error("it goes on after the end of the body")
		}
		res.Body.Close()
		c.Get(ctx, &Request{URL: parsed(t, "http://a/x"), Quiet: true})
		if len(book.started) != 1 || len(book.stopped) != 1 {
			t.Fatalf("%+v, stopped %v", book.started, book.stopped)
		}
		e, last := book.started[0], book.last[book.stopped[0]]
		if e.Type != activity.FileTransfer || e.Text != "downloading 'http://a/x'" || e.Fields[0].Text != "http://a/x" || e.Level != activity.Talkative {
			t.Errorf("%+v", e)
		}
		if last[0].Int != 10_000 || last[1].Int != 10_000 {
			t.Errorf("progress %v", last)
		}
	})
}

// Close ends a Read of another goroutine.
func TestCloseWhileReading(t *testing.T) {
	within(t, func(t *testing.T, n *network) {
		n.serve("a:80", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})
		c := n.client(Options{Connections: 1, Attempts: 5})
		res, err := c.Get(t.Context(), &Request{URL: parsed(t, "http://a/x")})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := io.ReadAll(res.Body)
			done <- err
		}()
		time.Sleep(time.Second)
		res.Body.Close()
		if err := <-done; err == nil {
			t.Error("no error")
		}
		if !c.slots.TryAcquire(1) {
			t.Error("the connection still counts")
		}
	})
}
