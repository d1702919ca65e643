package worker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/strata-nix/strata/wire"
)

// errRefused stops an upload that the daemon has already refused.
var errRefused = errors.New("the daemon wants no more")

// upload sends what fill writes, while it hears what the daemon says: it may
// refuse before it has everything, and must never wait for us to listen. The
// request up to here has been written.
func (k *conn) upload(ctx context.Context, framed bool, fill func(io.Writer) error) error {
	var refused atomic.Bool
	heard := make(chan error, 1)
	go func() {
		err := k.hear(ctx, nil)
		refused.Store(err != nil)
		heard <- err
	}()

	err := k.send(framed, &refused, fill)
	switch {
	case err == nil, refused.Load():
		// What was heard counts.
		return <-heard
	case k.out.Err() != nil:
		// The daemon may have said why it hung up.
		_ = k.nc.SetReadDeadline(time.Now().Add(cutGrace))
		var fault *Fault
		if heardErr := <-heard; errors.As(heardErr, &fault) {
			return heardErr
		}
		return err
	default:
		// Our own source failed. The end of the frames would look like the end of the
		// contents, so the connection has to go.
		k.broken = true
		k.close()
		<-heard
		return &sourceError{err}
	}
}

// send writes a stream to its end, or, if it is framed, up to a refusal.
func (k *conn) send(framed bool, refused *atomic.Bool, fill func(io.Writer) error) error {
	if !framed {
		if err := fill(k.out); err != nil {
			return err
		}
		return k.out.Flush()
	}
	f := &frames{FrameWriter: wire.NewFrameWriter(k.out.Writer), refused: refused}
	w := bufio.NewWriterSize(f, narBuffer)
	err := fill(w)
	if err == nil {
		err = w.Flush()
	}
	if err != nil && !refused.Load() {
		return err
	}
	return errors.Join(f.Close(), k.out.Flush())
}

// frames is a FrameWriter that ends early.
type frames struct {
	*wire.FrameWriter
	refused *atomic.Bool
}

func (f *frames) Write(p []byte) (int, error) {
	if f.refused.Load() {
		return 0, errRefused
	}
	return f.FrameWriter.Write(p)
}

// sourceError is a failure of our own side in the middle of an upload.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }
