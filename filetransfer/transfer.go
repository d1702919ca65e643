package filetransfer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/strata-nix/strata/activity"
)

// A transfer is one request with all its attempts, from its beginning until its
// body was read or closed.
type transfer struct {
	c      *Client
	req    *Request
	method string
	url    string // for messages

	caller   context.Context // what we were called with
	ctx      context.Context
	cancel   context.CancelFunc
	progress *progress // nil before the first attempt, and for quiet requests
	failures int       // attempts that failed, in a row
	slot     bool      // one of c.slots is ours

	sent atomic.Bool // the body of an upload was begun
}

func (c *Client) begin(ctx context.Context, method string, req *Request) *transfer {
	t := &transfer{c: c, req: req, method: method, url: redacted(req.URL), caller: ctx}
	t.ctx, t.cancel = context.WithCancel(ctx)
	return t
}

// redacted is a URL without user and password, since even a user can be a secret.
func redacted(u *url.URL) string {
	if u.User == nil {
		return u.String()
	}
	bare := *u
	bare.User = nil
	return bare.String()
}

// end lets go of all that the transfer holds. It may be called more than once.
func (t *transfer) end() {
	t.cancel()
	t.release()
	t.progress.stop()
}

func (t *transfer) acquire() error {
	if t.c.slots != nil {
		if err := t.c.slots.Acquire(t.ctx, 1); err != nil {
			return context.Cause(t.ctx)
		}
		t.slot = true
	}
	if t.progress == nil && !t.req.Quiet {
		t.ctx, t.progress = startProgress(t.ctx, t.method, t.url)
	}
	return nil
}

func (t *transfer) release() {
	if t.slot {
		t.slot = false
		t.c.slots.Release(1)
	}
}

// ask makes attempts until there is a good answer, or no hope. For a download it
// asks for what begins at a byte of the object. After an error no slot is held.
func (t *transfer) ask(from int64) (*answer, error) {
	for {
		if err := t.acquire(); err != nil {
			return nil, err
		}
		a, err := t.attempt(from, "")
		if err == nil {
			return a, nil
		}
		t.release()
		if err := t.again(t.fault(err), 0); err != nil {
			return nil, err
		}
	}
}

// fault is the error that the caller sees, for one of an attempt.
func (t *transfer) fault(err error) error {
	switch {
	case context.Cause(t.ctx) != nil:
		return context.Cause(t.ctx)
	case isType[*StatusError](err), isType[*TransferError](err):
		return err
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return &TransferError{Method: t.method, URL: t.url, Err: err}
}

var errScheme = errors.New("its scheme is neither http nor https")

// checkURL is for what cannot be asked for at all.
func checkURL(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return permanent(errScheme)
	case u.Host == "":
		return permanent(errors.New("it names no host"))
	}
	return nil
}

// warn tells of an attempt that failed.
func (t *transfer) warn(format string, args ...any) { activity.Warnf(t.ctx, format, args...) }

// reads tells whether the method has no other effect than an answer.
func reads(method string) bool { return method == http.MethodGet || method == http.MethodHead }
