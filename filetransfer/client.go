package filetransfer

import (
	"context"
	"crypto/tls"
	"errors"
)

// Client makes requests. It keeps connections open for the next one. Its
// methods may be called by several goroutines.
type Client struct{}

// New makes a client. What is wrong with a file of opts shows when it is needed.
func New(opts Options) *Client { return &Client{} }

// WithCertificate is a client that shows a certificate to https servers which
// want one. It shares limits and settings with c, but no connections.
func (c *Client) WithCertificate(cert tls.Certificate) *Client { return c }

// CloseIdle closes connections that are not in use.
func (c *Client) CloseIdle() {}

// Get fetches an object. The error is a *StatusError if the server says no, a
// *TransferError if it could not be asked, or ctx's cause. ctx must stay alive
// while the body is read.
func (c *Client) Get(ctx context.Context, req *Request) (*Response, error) {
	return nil, errors.ErrUnsupported
}

// Head asks about an object. Errors are those of Get.
func (c *Client) Head(ctx context.Context, req *Request) (*Response, error) {
	return nil, errors.ErrUnsupported
}

// Put stores an object. It is tried again if req.Body can be had again. The
// response's body, of which little is kept, is closed. Errors are those of Get,
// or of reading the body.
func (c *Client) Put(ctx context.Context, req *Request) (*Response, error) {
	return nil, errors.ErrUnsupported
}

// Post is Put with the other method. Since the server may have done already what
// it was told, it is tried again only if no connection could be made or the
// server said that it did nothing (429, 503).
func (c *Client) Post(ctx context.Context, req *Request) (*Response, error) {
	return nil, errors.ErrUnsupported
}

// Delete removes an object. Errors are those of Get.
func (c *Client) Delete(ctx context.Context, req *Request) (*Response, error) {
	return nil, errors.ErrUnsupported
}
