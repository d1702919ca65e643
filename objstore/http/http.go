// Package http is object storage on a web server: objects are what is below one
// URL, by GET and HEAD, and by PUT and DELETE where the server has those. It cannot be
// listed.
//
// Failures that pass are tried again, and downloads that break off continued, by
// package filetransfer, whose settings apply.
package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/objstore"
)

// Store is a web server, or a part of it. It is for any number of goroutines.
type Store struct {
	client *filetransfer.Client
	base   url.URL // its path ends in a slash
}

// New makes it of a URL and what makes requests. The client stays the caller's.
func New(base *url.URL, client *filetransfer.Client) (*Store, error) {
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("'%s' is no URL of a web server", base.Redacted())
	}
	b := *base
	b.RawQuery, b.Fragment = "", ""
	// Both forms of the path, so that what was escaped stays so.
	if b.RawPath != "" {
		b.RawPath = strings.TrimRight(b.RawPath, "/") + "/"
	}
	b.Path = strings.TrimRight(b.Path, "/") + "/"
	return &Store{client: client, base: b}, nil
}

// request makes a request for an object.
func (s *Store) request(name, query string) (*filetransfer.Request, error) {
	if err := objstore.CheckName(name); err != nil {
		return nil, err
	}
	u := s.base
	if u.RawPath != "" {
		u.RawPath += (&url.URL{Path: name}).EscapedPath()
	}
	u.Path += name
	u.RawQuery = query
	return &filetransfer.Request{URL: &u}, nil
}

// translate makes answers errors of package objstore.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case filetransfer.NotFound(err):
		return fmt.Errorf("%w: %w", objstore.ErrNotExist, err)
	case filetransfer.Forbidden(err):
		return fmt.Errorf("%w: %w", objstore.ErrForbidden, err)
	case errors.Is(err, filetransfer.ErrNoRanges):
		return fmt.Errorf("%w: %w", objstore.ErrNoRanges, err)
	case errors.Is(err, filetransfer.ErrChanged):
		return fmt.Errorf("%w: %w", objstore.ErrChanged, err)
	}
	return err
}

// Get opens an object. What the server compressed on top of it is undone.
func (s *Store) Get(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	req, err := s.request(name, o.Query)
	if err != nil {
		return nil, objstore.Info{}, err
	}
	req.Offset, req.Length, req.OnlyPart = o.Offset, o.Length, o.OnlyPart
	res, err := s.client.Get(ctx, req)
	if err != nil {
		return nil, objstore.Info{}, translate(err)
	}
	if o.ETag != "" && res.ETag != o.ETag {
		_ = res.Body.Close() // not wanted
		return nil, objstore.Info{}, fmt.Errorf("'%s': %w", name, objstore.ErrChanged)
	}
	return res.Body, objstore.Info{Name: name, Size: res.Total, ETag: res.ETag}, nil
}

// Stat tells about an object.
func (s *Store) Stat(ctx context.Context, name string) (objstore.Info, error) {
	req, err := s.request(name, "")
	if err != nil {
		return objstore.Info{}, err
	}
	req.Quiet = true
	res, err := s.client.Head(ctx, req)
	if err != nil {
		return objstore.Info{}, translate(err)
	}
	return objstore.Info{Name: name, Size: res.Size, ETag: res.ETag}, res.Body.Close()
}

// Put stores an object.
func (s *Store) Put(ctx context.Context, name string, body io.Reader, o objstore.PutOptions) error {
	req, err := s.request(name, "")
	if err != nil {
		return err
	}
	if there, err := o.Unwanted(ctx, s, name); there || err != nil {
		return err
	}
	whole, done, err := objstore.Sized(ctx, body, o.Size)
	if err != nil {
		return err
	}
	defer done()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Who sends may hold a body for a moment longer than the request takes.
	var bodies sync.WaitGroup
	defer bodies.Wait()
	req.Size = whole.Size()
	req.Body = func() (io.ReadCloser, error) {
		bodies.Add(1)
		return &sent{Reader: io.NewSectionReader(whole, 0, whole.Size()), close: sync.OnceFunc(bodies.Done)}, nil
	}
	req.ContentType = o.ContentType
	if o.ContentEncoding != "" {
		req.Header = http.Header{"Content-Encoding": {o.ContentEncoding}}
	}
	res, err := s.client.Put(ctx, req)
	if err != nil {
		return translate(err)
	}
	return res.Body.Close()
}

// sent is a body that tells when it is not needed any more.
type sent struct {
	io.Reader
	close func()
}

func (b *sent) Close() error {
	b.close()
	return nil
}

// List cannot be done.
func (s *Store) List(_ context.Context, dir string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		if dir != "" {
			if err := objstore.CheckName(dir); err != nil {
				yield(objstore.Info{}, err)
				return
			}
		}
		yield(objstore.Info{}, fmt.Errorf("a web server cannot be listed: %w", errors.ErrUnsupported))
	}
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, name string) error {
	req, err := s.request(name, "")
	if err != nil {
		return err
	}
	res, err := s.client.Delete(ctx, req)
	if err != nil {
		if err = translate(err); errors.Is(err, objstore.ErrNotExist) {
			return nil
		}
		return err
	}
	return res.Body.Close()
}
