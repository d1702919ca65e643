package buildlog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/storepath"
)

// bufferSize is what is written to a plain log at once.
const bufferSize = 32 << 10

// emptyBzip2 is nothing, compressed: most trivial builds say that.
const emptyBzip2 = "BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00"

// Place is where the log of a derivation is kept, without the suffix .bz2 of one
// that is compressed.
func Place(logDir string, drv storepath.Path) string {
	base := drv.Base()
	return filepath.Join(logDir, "drvs", base[:2], base[2:])
}

// File is the log of one build, in the form in which it is kept. It is for one
// goroutine.
//
// Its errors do not matter to a build: Write passes over them, and the first one
// is that of Close.
type File struct {
	ctx  context.Context //nolint:containedctx // that of the build, which ends the codec
	f    *os.File
	w    io.WriteCloser // nil: compressed, and nothing written yet
	err  error
	done bool
}

// Create makes the log of a build of drv, in the place of that of an earlier one.
// It is compressed unless plain is set. The caller closes it.
func Create(ctx context.Context, logDir string, drv storepath.Path, plain bool) (*File, error) {
	place := Place(logDir, drv)
	name, other := place+".bz2", place
	if plain {
		name, other = other, name
	}
	f, err := create(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
			f, err = create(name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("creating log file: %w", err)
	}
	if err := os.Remove(other); err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = f.Close()
		return nil, fmt.Errorf("removing old log file: %w", err)
	}
	l := &File{ctx: ctx, f: f}
	if plain {
		l.w = flushed{bufio.NewWriterSize(f, bufferSize)}
	}
	return l, nil
}

func create(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
}

// flushed closes a buffer by emptying it.
type flushed struct{ *bufio.Writer }

func (w flushed) Close() error { return w.Flush() }

// Write adds to the log, and never fails.
func (l *File) Write(p []byte) (int, error) {
	if l.err == nil && len(p) > 0 {
		l.err = l.write(p)
	}
	return len(p), nil
}

func (l *File) write(p []byte) error {
	if l.w == nil {
		w, err := compress.NewWriter(l.ctx, compress.Bzip2, l.f, compress.Options{Level: compress.DefaultLevel})
		if err != nil {
			return err
		}
		l.w = w
	}
	_, err := l.w.Write(p)
	return err
}

// Close completes the log, if the context of Create has not ended. It may be called
// again.
func (l *File) Close() error {
	if l.done {
		return l.err
	}
	l.done = true
	switch {
	case l.w != nil:
		l.err = errors.Join(l.err, l.w.Close())
	case l.err == nil:
		_, l.err = l.f.WriteString(emptyBzip2)
	}
	if l.err = errors.Join(l.err, l.f.Close()); l.err != nil {
		l.err = fmt.Errorf("writing log file: %w", l.err)
	}
	return l.err
}
