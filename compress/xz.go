package compress

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/ulikunitz/xz"
)

// xzUtils is the xz of XZ Utils.
type xzUtils struct {
	path string // empty: there is none
	fast bool   // it unpacks faster than this package
}

// xzProgram finds it. Others of that name, busybox's for example, can do less.
var xzProgram = sync.OnceValue(func() xzUtils {
	path, err := exec.LookPath("xz")
	if err != nil {
		return xzUtils{}
	}
	cmd := exec.Command(path, "--robot", "--version")
	cmd.Env = xzEnv()
	out, err := cmd.Output()
	if err != nil {
		return xzUtils{}
	}
	line, _, _ := strings.Cut(string(out), "\n")
	number, ok := strings.CutPrefix(line, "XZ_VERSION=")
	version, err := strconv.Atoi(number)
	if !ok || err != nil {
		return xzUtils{}
	}
	return xzUtils{path, version >= fastXZ && runtime.GOARCH == "amd64"}
})

// fastXZ is from which version on the program unpacks faster than this package: its
// inner loop is assembly for amd64 since 5.6, of which 5.6.2 is the first release that
// nobody has tampered with. The last digit says that it is no trial.
const fastXZ = 5_006_002_2

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

func newXZWriter(w *sink, opts Options) (io.WriteCloser, error) {
	program := xzProgram().path
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

func newGoXZWriter(w *sink, opts Options) (io.WriteCloser, error) {
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
