package filetransfer

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"

	"golang.org/x/sync/semaphore"
)

// Client makes requests. It keeps connections open for the next one. Its
// methods may be called by several goroutines.
type Client struct {
	opts  Options
	slots *semaphore.Weighted // nil: as many as there are
	netrc *netrcFile
	// plain carries requests. identified, which may be nil, shows a certificate,
	// and carries those to the origin of a request's own URL.
	plain, identified *carrier
}

// New makes a client. What is wrong with a file of opts shows when it is needed.
func New(opts Options) *Client {
	c := &Client{opts: opts, netrc: &netrcFile{path: opts.NetrcFile}}
	if opts.Proxy == nil {
		c.opts.Proxy = proxyFromEnvironment()
	}
	if opts.Connections > 0 {
		c.slots = semaphore.NewWeighted(int64(opts.Connections))
	}
	c.plain = newCarrier(c.opts, nil)
	return c
}

// WithCertificate is a client that shows a certificate to https servers which
// want one. It shares limits and settings with c, but no connections to them.
func (c *Client) WithCertificate(cert tls.Certificate) *Client {
	with := *c
	with.identified = newCarrier(c.opts, &cert)
	return &with
}

// CloseIdle closes connections that are not in use.
func (c *Client) CloseIdle() {
	c.plain.closeIdle()
	if c.identified != nil {
		c.identified.closeIdle()
	}
}

// Get fetches an object. The error is a *StatusError if the server says no, a
// *TransferError if it could not be asked, or ctx's cause. ctx must stay alive
// while the body is read.
func (c *Client) Get(ctx context.Context, req *Request) (*Response, error) {
	return c.begin(ctx, http.MethodGet, req).download()
}

// Head asks about an object. Errors are those of Get.
func (c *Client) Head(ctx context.Context, req *Request) (*Response, error) {
	return c.begin(ctx, http.MethodHead, req).call()
}

// Put stores an object. It is tried again if req.Body can be had again. Of what
// the server answers little is kept: maxReply bytes. Errors are those of Get, or
// of reading the body, in a *TransferError.
func (c *Client) Put(ctx context.Context, req *Request) (*Response, error) {
	return c.begin(ctx, http.MethodPut, req).call()
}

// Post is Put with the other method. Since the server may have done already what
// it was told, it is tried again only if no connection could be made or the
// server said that it did nothing (429, 503).
func (c *Client) Post(ctx context.Context, req *Request) (*Response, error) {
	return c.begin(ctx, http.MethodPost, req).call()
}

// Delete removes an object. Errors are those of Get.
func (c *Client) Delete(ctx context.Context, req *Request) (*Response, error) {
	return c.begin(ctx, http.MethodDelete, req).call()
}

// maxReply is how much is kept of the answer to something that is no download,
// in bytes.
const maxReply = 64 << 10

// call makes a request whose answer is short.
func (t *transfer) call() (*Response, error) {
	defer t.end()
	a, err := t.ask(0)
	if err != nil {
		return nil, err
	}
	defer a.close()
	reply, err := io.ReadAll(io.LimitReader(a, maxReply))
	if err != nil {
		return nil, t.fault(err) // whether it worked is not known
	}
	_, _ = io.CopyN(io.Discard, a, maxReply) // so that the connection can be used again
	res := a.response()
	res.Body = io.NopCloser(bytes.NewReader(reply))
	if t.method != http.MethodHead {
		res.Size = int64(len(reply))
	}
	return res, nil
}
