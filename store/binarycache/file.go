package binarycache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/objstore"
)

// missing tells that a cache has not got a file. Buckets that may not be listed
// deny access to what they have not got.
func missing(err error) bool {
	return errors.Is(err, objstore.ErrNotExist) || errors.Is(err, objstore.ErrForbidden)
}

// openFile opens a file, with the compression undone that the storage notes.
func (s *Store) openFile(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	body, info, err := s.objects.Get(ctx, name, o)
	if err != nil || info.ContentEncoding == "" || info.ContentEncoding == "identity" {
		return body, info, err
	}
	method, err := encoding(info.ContentEncoding)
	if err == nil {
		var plain io.ReadCloser
		if plain, err = compress.NewReader(ctx, method, body); err == nil {
			info.Size = objstore.Unknown
			return both{plain, body}, info, nil
		}
	}
	_ = body.Close() // nothing was read
	return nil, info, s.bad(name, "cannot be decoded", err)
}

// encoding reads a content encoding, in the words of HTTP and in those of Nix.
func encoding(name string) (compress.Method, error) {
	switch name {
	case "x-gzip":
		return compress.Gzip, nil
	case "brotli":
		return compress.Brotli, nil
	}
	return compress.Parse(name)
}

// both reads one and closes two.
type both struct {
	io.ReadCloser
	under io.Closer
}

func (b both) Close() error { return errors.Join(b.ReadCloser.Close(), b.under.Close()) }

// readFile reads a whole small file.
func (s *Store) readFile(ctx context.Context, name, query string, limit int64) ([]byte, error) {
	body, info, err := s.openFile(ctx, name, objstore.GetOptions{Query: query})
	if err != nil {
		return nil, s.failed("reading", name, err)
	}
	defer body.Close()
	if info.Size > limit {
		return nil, s.bad(name, fmt.Sprintf("has %d bytes, more than %d", info.Size, limit), nil)
	}
	var b bytes.Buffer
	if info.Size > 0 {
		b.Grow(int(info.Size) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, s.failed("reading", name, err)
	}
	if n > limit {
		return nil, s.bad(name, fmt.Sprintf("has more than %d bytes", limit), nil)
	}
	return b.Bytes(), nil
}

// The types of files, as a web server gives them.
const (
	typeCacheInfo = "text/x-nix-cache-info"
	typeNarInfo   = "text/x-nix-narinfo"
	typeNAR       = "application/x-nix-nar"
	typeJSON      = "application/json"
	typeLog       = "text/plain; charset=utf-8"
)

// writeFile writes a small file, compressed if method says so.
func (s *Store) writeFile(ctx context.Context, name string, data []byte, method compress.Method, o objstore.PutOptions) error {
	if method != "" && method != compress.None {
		var b bytes.Buffer
		if err := squeeze(ctx, &b, bytes.NewReader(data), method); err != nil {
			return s.failed("writing", name, err)
		}
		data, o.ContentEncoding = b.Bytes(), string(method)
	}
	o.Size = int64(len(data))
	if err := s.objects.Put(ctx, name, bytes.NewReader(data), o); err != nil {
		return s.failed("writing", name, err)
	}
	return nil
}

// squeeze compresses r to w.
func squeeze(ctx context.Context, w io.Writer, r io.Reader, method compress.Method) error {
	c, err := compress.NewWriter(ctx, method, w, compress.Options{Level: compress.DefaultLevel})
	if err != nil {
		return err
	}
	_, err = io.Copy(c, r)
	return errors.Join(err, c.Close())
}
