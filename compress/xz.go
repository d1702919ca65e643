package compress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	fastxz "github.com/mikelolasagasti/xz"
	"github.com/ulikunitz/xz"
)

// smallXZ is the size of compressed data, in bytes, up to which starting a
// program costs more than it saves.
const smallXZ = 128 << 10

// xzProgram is the xz of XZ Utils, empty if there is none. Others of that name,
// busybox's for example, can do less.
var xzProgram = sync.OnceValue(func() string {
	path, err := exec.LookPath("xz")
	if err != nil {
		return ""
	}
	cmd := exec.Command(path, "--robot", "--version")
	cmd.Env = xzEnv()
	if out, err := cmd.Output(); err != nil || !strings.HasPrefix(string(out), "XZ_VERSION=") {
		return ""
	}
	return path
})

// xzEnv is our own environment without what sets options of xz, and with
// messages that we know.
func xzEnv() []string {
	env := []string{"LC_ALL=C"}
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "XZ_OPT", "XZ_DEFAULTS", "LC_ALL":
		default:
			env = append(env, v)
		}
	}
	return env
}

func openXZ(d *reader) (io.Reader, error) { return openXZWith(d, xzProgram()) }

// openXZWith decodes with a program, or without if there is none or little to do.
func openXZWith(d *reader, program string) (io.Reader, error) {
	in := d.input()
	if program != "" {
		in = bufio.NewReaderSize(d.src, smallXZ)
		switch _, err := in.Peek(smallXZ); err {
		case nil:
			return startXZReader(d, program, in)
		case io.EOF: // that is all of it
		default:
			return nil, err
		}
	}
	d.explain = explainXZ
	return fastxz.NewReader(in, MaxWindow)
}

// explainXZ is for the errors of the decoder in Go.
func explainXZ(err error) error {
	switch {
	case errors.Is(err, fastxz.ErrMemlimit):
		return fmt.Errorf("%w: %w", ErrMemory, err)
	case errors.Is(err, fastxz.ErrBuf):
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

func startXZReader(d *reader, program string, in io.Reader) (io.Reader, error) {
	// The limit counts what the decoder needs beside its dictionary too.
	args := []string{"--decompress", "--stdout", "--format=xz", fmt.Sprintf("--memlimit-decompress=%d", MaxWindow+1<<20)}
	c, err := startChild(d.src.ctx, program, args)
	if err != nil {
		return nil, err
	}
	go c.feed(in)
	d.release = c.stop
	d.explain = func(err error) error {
		switch text := err.Error(); {
		case strings.Contains(text, "Unexpected end of input"):
			return io.ErrUnexpectedEOF
		case strings.Contains(text, "Memory usage limit"):
			return fmt.Errorf("%w: %w", ErrMemory, err)
		case strings.Contains(text, "corrupt"), strings.Contains(text, "not recognized"), strings.Contains(text, "nsupported"):
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return err
	}
	return c, nil
}

func newXZWriter(w io.Writer, opts Options) (io.WriteCloser, error) {
	return newXZWriterWith(w.(*sink), opts, xzProgram())
}

func newXZWriterWith(w *sink, opts Options, program string) (io.WriteCloser, error) {
	if program == "" {
		return newGoXZWriter(w, opts)
	}
	threads := 1
	if opts.Parallel {
		threads = 0
	}
	c, err := startChild(w.ctx, program, []string{
		"--compress", "--stdout", "--format=xz", fmt.Sprintf("-%d", opts.Level), fmt.Sprintf("--threads=%d", threads),
	})
	if err != nil {
		return nil, err
	}
	x := &xzWriter{child: c, drained: make(chan struct{})}
	go x.drain(w)
	return x, nil
}

// dictionaries are those of the levels of xz, in bytes.
var dictionaries = [10]int{
	256 << 10, 1 << 20, 2 << 20, 4 << 20, 4 << 20, 8 << 20, 8 << 20, 16 << 20, 32 << 20, 64 << 20,
}

func newGoXZWriter(w io.Writer, opts Options) (io.WriteCloser, error) {
	return &lazyWriter{open: func() (io.WriteCloser, error) {
		return xz.WriterConfig{DictCap: dictionaries[opts.Level], CheckSum: xz.CRC64}.NewWriter(w)
	}}, nil
}

// A lazyWriter puts off what a codec writes when it is made.
type lazyWriter struct {
	open  func() (io.WriteCloser, error)
	codec io.WriteCloser
	err   error // of open
}

func (l *lazyWriter) ready() error {
	if l.codec == nil && l.err == nil {
		l.codec, l.err = l.open()
	}
	return l.err
}

func (l *lazyWriter) Write(p []byte) (int, error) {
	if err := l.ready(); err != nil {
		return 0, err
	}
	return l.codec.Write(p)
}

func (l *lazyWriter) Close() error {
	if err := l.ready(); err != nil {
		return err
	}
	return l.codec.Close()
}

// An xzWriter is a child that compresses.
type xzWriter struct {
	child   *child
	drained chan struct{} // closed when all output was passed on
}

func (x *xzWriter) drain(w io.Writer) {
	defer close(x.drained)
	if _, err := io.Copy(w, x.child.stdout); err != nil {
		x.child.kill()
	}
}

func (x *xzWriter) Write(p []byte) (int, error) {
	n, err := x.child.stdin.Write(p)
	if err != nil {
		// It is gone, and how it ended says more than a broken pipe.
		x.child.stdin.Close()
		<-x.drained
		err = errors.Join(x.child.wait(), err)
	}
	return n, err
}

func (x *xzWriter) Close() error {
	x.child.stdin.Close()
	<-x.drained
	return x.child.wait()
}
