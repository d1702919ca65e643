package compress

import (
	"context"
	"errors"
	"io"
)

// NewReader decompresses r. For None it gives the bytes of r.
//
// The reader fails with ctx's cause when ctx is done, with r's error if r fails,
// and with an *Error otherwise. It must be closed, which does not close r but
// waits until r is not being read any more (see the package comment). It is for
// one goroutine, but Close may be called while another is in Read.
func NewReader(ctx context.Context, m Method, r io.Reader) (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

