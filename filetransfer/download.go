package filetransfer

import (
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/strata-nix/strata/compress"
)

// download makes a request for an object, and gives its body out.
func (t *transfer) download() (*Response, error) {
	a, err := t.ask(t.req.Offset)
	if err != nil {
		t.end()
		return nil, err
	}
	res := a.response()
	if res.NotModified {
		a.close()
		t.end()
		res.Size, res.Total = 0, 0
		return res, nil
	}
	d := &download{t: t, a: a, pace: pace{speed: t.c.opts.Speed}}
	if err := d.open(res); err != nil {
		d.finish(t.fault(err))
		return nil, d.err
	}
	return res, nil
}

// A download is a body that goes on where it breaks. Close may be called while
// another goroutine is in Read, which then fails.
type download struct {
	t *transfer

	// Where it begins and ends: bytes of the object. limit is where the caller's
	// wish ends, end where there is nothing more; -1 is unknown.
	begin, limit, end int64
	// validator makes sure that it is the same object when it goes on; empty if
	// that cannot be known.
	validator string

	mu     sync.Mutex // held in Read
	a      *answer    // nil while broken
	broken error      // why
	at     int64      // the next byte of the object
	skip   int64      // bytes of the answer that come before that
	fresh  int64      // bytes since the last break
	pace   pace
	err    error // sticky
}

// open begins with the first answer, and completes res.
func (d *download) open(res *Response) error {
	req, h := d.t.req, d.a.Header
	d.begin, d.at, d.limit, d.end = req.Offset, req.Offset, -1, -1
	if req.Length > 0 {
		d.limit = req.Offset + req.Length
	}
	d.validator = validator(h)
	if err := d.place(res); err != nil {
		return err
	}
	d.t.progress.set(0, res.Size)
	res.Body = d
	if list := encodings(h); list != nil && !req.Raw && req.Offset == 0 && req.Length == 0 {
		d.validator = "" // what is sent again may be encoded otherwise
		body, err := decode(d.t.caller, d, list)
		if err != nil {
			return err
		}
		res.Body, res.Size, res.Total = &explained{body, d.t}, -1, -1
	}
	return nil
}

// place finds out which part of the object the first answer has.
func (d *download) place(res *Response) error {
	if d.a.StatusCode != http.StatusPartialContent {
		// Perhaps the server does not do ranges: the part is cut out here.
		d.end, d.skip = d.a.ContentLength, d.begin
		if d.t.req.OnlyPart && (d.begin > 0 || d.limit >= 0 && (d.end < 0 || d.end > d.limit)) {
			return permanent(ErrNoRanges)
		}
		if d.end >= 0 && d.begin > 0 && d.begin >= d.end {
			return &StatusError{Method: d.t.method, URL: d.t.url, Code: http.StatusRequestedRangeNotSatisfiable}
		}
	} else {
		first, last, total, err := contentRange(d.a.Header)
		if err != nil {
			return err
		}
		if first != d.begin {
			return permanent(fmt.Errorf("it sent bytes from %d on when asked for those from %d on", first, d.begin))
		}
		// A server may send less than it was asked for: then it is asked again.
		d.end, res.Total = total, total
		if total < 0 {
			d.end = last + 1
		}
	}
	if d.limit >= 0 && d.end >= 0 {
		d.end = min(d.end, d.limit)
	}
	res.Size = d.end
	if d.end >= 0 {
		res.Size -= d.begin
	}
	return nil
}

func (d *download) Read(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(p) == 0 {
		return 0, d.err
	}
	for d.err == nil {
		if d.a == nil {
			if err := d.resume(); err != nil {
				d.finish(err)
				break
			}
		}
		n, err := d.read(p)
		if err == io.EOF {
			d.finish(io.EOF)
		} else if err != nil {
			d.breakOff(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, d.err
}

// read reads what is wanted of the present answer.
func (d *download) read(p []byte) (int, error) {
	if d.at == d.limit {
		return 0, io.EOF
	}
	for d.skip > 0 {
		n, err := d.a.Read(p[:min(int64(len(p)), d.skip)])
		if d.skip -= int64(n); err != nil {
			return 0, unexpected(err)
		}
	}
	if d.limit >= 0 {
		p = p[:min(int64(len(p)), d.limit-d.at)]
	}
	n, err := d.a.Read(p[:d.pace.limit(len(p))])
	d.at += int64(n)
	d.fresh += int64(n)
	d.t.progress.add(n)
	switch {
	case d.end >= 0 && d.at > d.end:
		return 0, permanent(ErrChanged) // more than there was to come
	case err == io.EOF && d.end >= 0 && d.at < d.end:
		return n, io.ErrUnexpectedEOF
	case err == nil:
		err = d.pace.spend(d.t.ctx, n)
	}
	return n, err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (d *download) breakOff(err error) {
	d.broken = d.t.fault(err)
	d.a.close()
	d.a = nil
	d.t.release()
}

// finish ends it, with io.EOF if all is well.
func (d *download) finish(err error) {
	d.err = err
	if d.a != nil {
		d.a.close()
		d.a = nil
	}
	d.t.end()
}

// resume gets an answer that goes on where the last one broke off.
func (d *download) resume() error {
	if d.fresh >= enough {
		d.t.failures = 0
	}
	d.fresh = 0
	err := d.broken
	if d.validator == "" && d.at > d.begin {
		return err
	}
	for {
		if err := d.t.again(err, d.at); err != nil {
			return err
		}
		if err := d.t.acquire(); err != nil {
			return err
		}
		var a *answer
		if a, err = d.t.attempt(d.at, d.validator); err == nil {
			if err = d.join(a); err == nil {
				return nil
			}
			a.close()
		}
		d.t.release()
		err = d.t.fault(err)
	}
}

// join takes an answer if it goes on with the same object.
func (d *download) join(a *answer) error {
	if validator(a.Header) != d.validator || encodings(a.Header) != nil {
		return permanent(ErrChanged)
	}
	d.skip = 0
	switch a.StatusCode {
	case http.StatusPartialContent:
		first, last, total, err := contentRange(a.Header)
		if err != nil {
			return err
		}
		if d.end < 0 {
			d.end = total
		}
		if first != d.at || d.end >= 0 && last >= d.end {
			return permanent(ErrChanged)
		}
	case http.StatusOK: // the server does not do ranges, but it is the same
		if d.limit < 0 && a.ContentLength != d.end {
			return permanent(ErrChanged)
		}
		d.skip = d.at
	default:
		return permanent(ErrChanged)
	}
	d.a = a
	return nil
}

func (d *download) Close() error {
	d.t.cancel() // ends a Read
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.finish(errClosed)
	}
	return nil
}

// An explained body says which download it was that could not be decoded.
type explained struct {
	io.ReadCloser
	t *transfer
}

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if isType[*compress.Error](err) {
		err = &TransferError{Method: e.t.method, URL: e.t.url, Err: err}
	}
	return n, err
}
