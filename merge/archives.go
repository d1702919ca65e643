package merge

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// object is one of a layer.
type object struct {
	layer *Layer
	info  *store.PathInfo
}

// As much of each archive is read before somebody wants it.
const (
	chunkSize   = 256 << 10
	chunksAhead = 8
)

// eachArchive gives the archives of objects to f, in their order, while the next ones
// are read and hashed already. That an archive is not what it should be is told at its end.
func eachArchive(ctx context.Context, objects []object, f func(object, io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	window := runtime.GOMAXPROCS(0) + 1
	var under []*archive
	r := bufio.NewReaderSize(nil, chunkSize)
	defer func() {
		cancel()
		for _, a := range under {
			<-a.ended
		}
	}()
	for next := 0; next < len(objects) || len(under) > 0; {
		for ; next < len(objects) && len(under) < window; next++ {
			under = append(under, startArchive(ctx, objects[next]))
		}
		a := under[0]
		r.Reset(a)
		err := f(a.object, r)
		if err == nil {
			_, err = r.Discard(1) // its end, where it is found to be right
			if errors.Is(err, io.EOF) {
				err = nil
			}
		}
		if err != nil {
			return a.layer.wrap(err)
		}
		<-a.ended
		under = under[1:]
	}
	return nil
}

// archive is one that is being read ahead.
type archive struct {
	object
	chunks chan []byte
	free   chan []byte // buffers that were read
	ended  chan struct{}
	err    error // once chunks is closed
	now    []byte
	buf    []byte
}

func startArchive(ctx context.Context, o object) *archive {
	a := &archive{
		object: o, chunks: make(chan []byte, chunksAhead), free: make(chan []byte, chunksAhead+2), ended: make(chan struct{}),
	}
	go func() {
		defer close(a.ended)
		defer close(a.chunks)
		a.err = a.dump(ctx)
	}()
	return a
}

func (a *archive) dump(ctx context.Context) error {
	dir, err := os.OpenFile(a.layer.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	h := nixhash.SHA256.New()
	to := writerFunc(func(p []byte) (int, error) {
		h.Write(p)
		return len(p), a.hand(ctx, p)
	})
	if err := nar.DumpAt(ctx, to, dir, a.info.Path.Base()); err != nil {
		return err
	}
	return compare(h.Sum(nil), a.info.Path, a.info.NarHash, a.layer.Dir)
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// hand gives bytes to the reader.
func (a *archive) hand(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		var buf []byte
		select {
		case buf = <-a.free:
		default:
			buf = make([]byte, min(len(p), chunkSize))
		}
		n := copy(buf[:cap(buf)], p)
		select {
		case a.chunks <- buf[:n]:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		p = p[n:]
	}
	return nil
}

// Read gives the archive, and at its end whether it was what it should be.
func (a *archive) Read(p []byte) (int, error) {
	for len(a.now) == 0 {
		if a.buf != nil {
			select {
			case a.free <- a.buf:
			default:
			}
		}
		var ok bool
		if a.now, ok = <-a.chunks; !ok {
			a.buf = nil
			if a.err != nil {
				return 0, a.err
			}
			return 0, io.EOF
		}
		a.buf = a.now[:0]
	}
	n := copy(p, a.now)
	a.now = a.now[n:]
	return n, nil
}
