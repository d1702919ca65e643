package filetransfer

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An answer is a response that has begun, of one attempt, whose body is watched
// for stalling.
type answer struct {
	*http.Response
	cancel context.CancelCauseFunc
	ctx    context.Context // of the attempt
	watch  *watchdog
	req    *Request
}

// attempt makes the request once, with its redirects. A download starts at byte
// from of the object; validator, if any, makes that depend on the object being
// the same still. The error is a *StatusError for all but success.
func (t *transfer) attempt(from int64, validator string) (*answer, error) {
	a := &answer{req: t.req}
	a.ctx, a.cancel = context.WithCancelCause(t.ctx)
	a.watch = newWatchdog(t.c.opts.StalledTimeout, a.cancel)
	a.watch.arm()
	defer a.watch.disarm()
	resp, err := t.exchange(a, t.headers(from, validator))
	if err != nil {
		if cause := context.Cause(a.ctx); cause != nil {
			err = cause
		}
		a.cancel(nil)
		return nil, err
	}
	a.Response = resp
	if !succeeded(resp.StatusCode) {
		defer a.close()
		return nil, t.status(a)
	}
	return a, nil
}

// headers are those that go to every host.
func (t *transfer) headers(from int64, validator string) http.Header {
	h := make(http.Header)
	h.Set("User-Agent", strings.TrimSpace(userAgent+" "+t.c.opts.UserAgentSuffix))
	h.Set("Accept-Encoding", "identity")
	if t.req.ETag != "" {
		h.Set("If-None-Match", t.req.ETag)
	}
	switch {
	case t.method != http.MethodGet:
	case from > 0 || t.req.Length > 0:
		last := ""
		if t.req.Length > 0 {
			last = strconv.FormatInt(t.req.Offset+t.req.Length-1, 10)
		}
		h.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-"+last)
	case t.req.Compressed && !t.req.Raw:
		h.Set("Accept-Encoding", "zstd, br, gzip")
	}
	if validator != "" {
		h.Set("If-Range", validator)
		h.Del("If-None-Match")
	}
	return h
}

// userAgent is what servers see first. Upstream's has the versions of curl and
// of itself.
const userAgent = "strata"

// succeeded knows upstream's good statuses.
func succeeded(code int) bool {
	switch code {
	case http.StatusOK, http.StatusCreated, http.StatusNoContent, http.StatusPartialContent, http.StatusNotModified:
		return true
	}
	return false
}

// Read reads the body. If that takes too long the error is ErrStalled.
func (a *answer) Read(p []byte) (int, error) {
	a.watch.arm()
	n, err := a.Body.Read(p)
	a.watch.disarm()
	if err != nil && err != io.EOF {
		if cause := context.Cause(a.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (a *answer) close() {
	a.watch.disarm()
	a.Body.Close()
	a.cancel(nil)
}

// response is what the caller sees, without its body.
func (a *answer) response() *Response {
	etag := a.Header.Get("ETag")
	if a.StatusCode == http.StatusNotModified && etag == "" {
		etag = a.req.ETag
	}
	return &Response{
		Code:   a.StatusCode,
		Header: a.Header,
		URL:    a.Request.URL,
		Body:   http.NoBody,
		Size:   a.ContentLength,
		Total:  a.ContentLength,
		ETag:   etag,
		// Servers are known that send a tag, and then do not look whether they are
		// given the same one.
		NotModified: a.StatusCode == http.StatusNotModified || a.req.ETag != "" && a.req.ETag == etag,
	}
}

// A watchdog gives an attempt up when nothing moves.
type watchdog struct {
	timer *time.Timer // nil: never
	after time.Duration
}

func newWatchdog(after time.Duration, cancel context.CancelCauseFunc) *watchdog {
	w := &watchdog{after: after}
	if after > 0 {
		w.timer = time.AfterFunc(after, func() { cancel(ErrStalled) })
	}
	return w
}

// arm starts waiting anew.
func (w *watchdog) arm() {
	if w.timer != nil {
		w.timer.Reset(w.after)
	}
}

// disarm is for times in which it is not the network that is waited for.
func (w *watchdog) disarm() {
	if w.timer != nil {
		w.timer.Stop()
	}
}
