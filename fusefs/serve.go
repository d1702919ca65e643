package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ServeOptions say how a mount is served. The zero value is useful.
type ServeOptions struct {
	// TakeOver tells whether the connection was served by a process that is gone. What it had
	// not answered is asked for again; and fails with EIO, if processes failed over it.
	TakeOver Takeover
	// UID and GID own all that is shown.
	UID, GID uint32
	// RootTime is when the root was last changed, as everybody sees it.
	RootTime time.Time
	// Log gets what goes wrong between the kernel and us; nil: nobody does.
	Log *slog.Logger
}

// Serve answers the kernel's requests until the mount is gone, which is no error, or ctx
// ends. Then what is under way is left unanswered, for a successor. It closes nothing.
func Serve(ctx context.Context, c *Conn, src Source, o ServeOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &server{conn: c, src: src, o: o, ctx: ctx, calls: map[uint64]*call{}, ended: make(chan struct{}), left: make(chan struct{})}
	if o.TakeOver.After {
		if err := c.resend(); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("taking over a FUSE connection: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, s.stop)
	s.readers.Add(1)
	s.waiting.Add(1)
	go s.loop()
	go func() {
		s.readers.Wait()
		close(s.ended)
	}()
	select {
	case <-s.ended:
	case <-s.left:
	}
	if !stop() {
		return context.Cause(ctx)
	}
	return s.failure()
}

type server struct {
	conn *Conn
	src  Source
	o    ServeOptions
	ctx  context.Context //nolint:containedctx // of Serve, whose body the goroutines are

	readers  sync.WaitGroup
	ended    chan struct{} // closed when there are none any more
	left     chan struct{} // closed when those that there are wait in vain, and are left where they are
	waiting  atomic.Int32  // readers that wait for a request, or are about to
	handling atomic.Int32  // readers that may be answering one
	stopped  atomic.Bool

	mu    sync.Mutex
	err   error            // why a reader gave up
	calls map[uint64]*call // requests under way, by their number
}

const (
	// minRead is the smallest buffer that the kernel takes for a request. Nothing larger
	// comes, as nothing is written.
	minRead = 8192
	// maxIdle is how many goroutines wait for requests at most.
	maxIdle = 3
)

// loop reads requests and answers them, in this goroutine: to pass each to another one
// would cost more than most answers do. There is always one that waits.
func (s *server) loop() {
	defer s.readers.Done()
	r := &request{s: s, in: readBuffer()}
	for {
		n, err := s.conn.read(r.in)
		left := s.waiting.Add(-1)
		if err != nil {
			s.fail(err)
			return
		}
		s.handling.Add(1)
		if s.stopped.Load() {
			// Whatever this was, nobody has answered it, and the successor gets it again.
			s.handling.Add(-1)
			return
		}
		if left == 0 {
			s.waiting.Add(1)
			s.readers.Add(1)
			go s.loop()
		}
		r.handle(n)
		s.handling.Add(-1)
		if s.waiting.Add(1) > maxIdle || s.stopped.Load() {
			s.waiting.Add(-1)
			return
		}
	}
}

// readBuffer makes a buffer for requests whose memory is there. The kernel gives a request
// up, as EIO, if it cannot copy it out; and that it cannot when a page is missing of a process that
// is being killed.
func readBuffer() []byte {
	b := make([]byte, minRead)
	for i := range b {
		b[i] = 1
	}
	return b
}

// stop makes all readers return. Some kernels (6.18 is one) let nobody wake those that wait for a request. If what one of them takes is
// asked for again, they are left waiting as soon as all others have ended.
func (s *server) stop() {
	s.stopped.Store(true)
	deaf := false
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		for range s.waiting.Load() {
			if err := s.conn.wake(); errors.Is(err, unix.EINVAL) {
				deaf = true
			} else if err != nil {
				return // the mount is gone, and the readers know
			}
		}
		if deaf && s.handling.Load() == 0 && s.conn.resend() == nil {
			close(s.left)
			return
		}
		select {
		case <-s.ended:
			return
		case <-time.After(pause):
		}
	}
}

func (s *server) fail(err error) {
	if errors.Is(err, errGone) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *server) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// begin gives a request under way a context, which an interrupt ends.
func (s *server) begin(h *fuse.InHeader) context.Context {
	ctx, cancel := context.WithCancelCause(context.WithValue(s.ctx, callerKey{}, h.Pid))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[h.Unique] = &call{ctx, cancel, h.Pid}
	return ctx
}

type callerKey struct{}

// Caller is the process, or the thread, that asked for what a Source was called for; 0 if that is not
// known, as with one of another PID namespace.
func Caller(ctx context.Context) (pid int) {
	n, _ := ctx.Value(callerKey{}).(uint32)
	return int(n)
}

func (s *server) end(unique uint64) {
	s.mu.Lock()
	c := s.calls[unique]
	delete(s.calls, unique)
	s.mu.Unlock()
	c.cancel(nil)
}

// init answers the first request of a connection.
func (s *server) init(in *fuse.InitIn) (*fuse.InitOut, unix.Errno) {
	if in.Major != protocolMajor || in.Minor < protocolMinorMin {
		s.o.Log.Error(fmt.Sprintf("the kernel speaks version %d.%d of the FUSE protocol, and %d.%d is needed", in.Major, in.Minor, protocolMajor, protocolMinorMin))
		return nil, unix.EPROTO
	}
	flags := in.Flags64() & (fuse.CAP_ASYNC_READ | fuse.CAP_PARALLEL_DIROPS | fuse.CAP_ASYNC_DIO | fuse.CAP_READDIRPLUS |
		fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_CACHE_SYMLINKS | fuse.CAP_EXPLICIT_INVAL_DATA |
		fuse.CAP_MAX_PAGES | fuse.CAP_NO_EXPORT_SUPPORT | fuse.CAP_HAS_RESEND | fuse.CAP_INIT_EXT)
	return &fuse.InitOut{
		Major: protocolMajor, Minor: min(in.Minor, protocolMinor),
		MaxReadAhead: in.MaxReadAhead,
		Flags:        uint32(flags), Flags2: uint32(flags >> 32),
		MaxBackground: maxBackground, CongestionThreshold: maxBackground * 3 / 4,
		MaxWrite: 4096, TimeGran: 1, MaxPages: maxPages,
	}, 0
}

const (
	protocolMajor = 7
	// protocolMinor is the version whose structures these are.
	protocolMinor = 41
	// protocolMinorMin has NO_OPENDIR_SUPPORT (Linux 5.1).
	protocolMinorMin = 29
	// maxBackground is how many requests of read-ahead may be under way.
	maxBackground = 64
	// maxPages is how many pages a request may ask for: 1 MiB.
	maxPages = 256
)
