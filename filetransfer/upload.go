package filetransfer

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// largeBody is the size from which the server is asked first whether it wants
// the body, as curl does, in bytes.
const largeBody = 1 << 20

// attachBody makes a request bring the body, anew.
func (t *transfer) attachBody(a *answer, req *http.Request) {
	req.ContentLength = t.req.Size
	if t.req.ContentType != "" {
		req.Header.Set("Content-Type", t.req.ContentType)
	}
	if t.req.Size == 0 {
		return // or it would go in chunks
	}
	if t.req.Size < 0 || t.req.Size >= largeBody {
		req.Header.Set("Expect", "100-continue")
	}
	t.progress.set(0, t.req.Size)
	req.Body = &upload{t: t, a: a, left: t.req.Size}
}

// spent tells whether the body cannot be sent again.
func (t *transfer) spent() bool {
	if !t.sent.Load() {
		return false
	}
	body, err := t.req.Body()
	if err == nil {
		body.Close()
	}
	return errors.Is(err, ErrOnce)
}

// An upload reads the body of one attempt, which is opened with its first byte.
// The transport may still be in Read when it calls Close: then the body is
// closed when that returns.
type upload struct {
	t    *transfer
	a    *answer
	left int64 // bytes to come, negative if unknown

	mu      sync.Mutex
	body    io.ReadCloser
	reading bool
	closed  bool
}

var (
	errSize   = errors.New("the body has not the size that was announced")
	errClosed = errors.New("closed")
)

// Read fails the attempt if the body cannot be read.
func (u *upload) Read(p []byte) (int, error) {
	if !u.enter() {
		return 0, errClosed
	}
	defer u.leave()
	u.a.watch.disarm() // it is not the network that we wait for
	defer u.a.watch.arm()
	n, err := u.read(p)
	u.t.progress.add(n)
	if err != nil && err != io.EOF {
		err = permanent(err)
		u.a.cancel(err)
	}
	return n, err
}

func (u *upload) enter() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reading = !u.closed
	return u.reading
}

func (u *upload) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reading = false
	if u.closed && u.body != nil {
		u.body.Close()
	}
}

func (u *upload) read(p []byte) (int, error) {
	if u.body == nil {
		u.t.sent.Store(true)
		body, err := u.t.req.Body()
		if err != nil {
			return 0, err
		}
		u.body = body
	}
	n, err := u.body.Read(p)
	if u.left < 0 {
		return n, err
	}
	u.left -= int64(n)
	if u.left == 0 && err == nil {
		// Before the server has all, and takes a part for the whole.
		var more [1]byte
		var extra int
		extra, err = io.ReadFull(u.body, more[:])
		u.left -= int64(extra)
	}
	if u.left < 0 || err == io.EOF && u.left > 0 {
		return 0, errSize
	}
	return n, err
}

func (u *upload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	closed := u.closed
	u.closed = true
	if !closed && !u.reading && u.body != nil {
		return u.body.Close()
	}
	return nil
}
