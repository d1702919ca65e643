package gc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/unixsocket"
	"github.com/strata-nix/strata/storepath"
)

func socketPath(stateDir string) string { return filepath.Join(stateDir, "gc-socket", "socket") }

// collector is the connection to a collection that runs. Like Nix we keep it as
// long as there may be more roots to tell: the server of Nix 2.34 crashes now and
// then when connections come and go quickly (its thread may end before it has been
// entered into the map from which it is to be taken).
//
// Source: LocalStore::collectGarbage in src/libstore/gc.cc of Nix 2.34.
type collector struct {
	stateDir string
	conn     net.Conn // nil: not connected
}

// tell sends roots, and waits until the collection has taken note of each. It is
// false if there is no such collection after all.
func (c *collector) tell(ctx context.Context, dir storepath.Dir, paths []storepath.Path) (bool, error) {
	if ok, err := c.connect(ctx); !ok || err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	err := c.send(dir, paths)
	if !stop() || err != nil {
		c.close()
		return false, context.Cause(ctx) // it has ended meanwhile, unless we have: try again
	}
	return true, nil
}

func (c *collector) send(dir storepath.Dir, paths []storepath.Path) error {
	var answer [1]byte
	for _, p := range paths {
		if _, err := fmt.Fprintf(c.conn, "%s\n", dir.Print(p)); err != nil {
			return err
		}
		if _, err := c.conn.Read(answer[:]); err != nil {
			return err
		}
	}
	return nil
}

// connect is false, after a while, if nobody listens.
func (c *collector) connect(ctx context.Context) (bool, error) {
	if c.conn != nil {
		return true, nil
	}
	conn, err := unixsocket.Dial(ctx, socketPath(c.stateDir))
	if err == nil {
		c.conn = conn
		return true, nil
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-time.After(20 * time.Millisecond):
		return false, nil
	}
}

func (c *collector) close() {
	if c.conn != nil {
		_ = c.conn.Close() // it has said all it had to
		c.conn = nil
	}
}

// rootServer takes temporary roots while a collection runs.
type rootServer struct {
	ln   net.Listener
	path string
	dir  storepath.Dir
	wg   sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond       // pending has shrunk
	roots   map[string]bool // hash parts that must be kept
	pending map[string]bool // hash parts that are being deleted right now
	conns   map[net.Conn]bool
	closed  bool
}

func startRootServer(stateDir string, dir storepath.Dir) (*rootServer, error) {
	path := socketPath(stateDir)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	// We hold gc.lock, so a socket that is there is nobody's.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s := &rootServer{path: path, dir: dir, roots: map[string]bool{}, pending: map[string]bool{}, conns: map[net.Conn]bool{}}
	s.changed.L = &s.mu
	var err error
	if s.ln, err = unixsocket.Listen(path); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // every user of the store may speak up
		_ = s.ln.Close()
		return nil, err
	}
	s.wg.Go(s.accept)
	return s, nil
}

func (s *rootServer) accept() {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = conn.Close()
			return
		}
		s.conns[conn] = true
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(conn) })
	}
}

func (s *rootServer) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if p, err := s.dir.Parse(strings.TrimSuffix(lines.Text(), "\n")); err == nil && !s.keep(p.HashPart()) {
			return
		}
		if _, err := conn.Write([]byte("1")); err != nil {
			return
		}
	}
}

// keep notes a root; if it is being deleted, it waits until that is over, so
// that the client does not make it anew under our hands. It is false at the end
// of the collection: the client then starts over without one.
func (s *rootServer) keep(hashPart string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roots[hashPart] = true
	for s.pending[hashPart] && !s.closed {
		s.changed.Wait()
	}
	return !s.closed
}

// claim takes those of the names for deletion that nobody wants kept, until
// release. Names are those in the store directory.
func (s *rootServer) claim(names []string) (claimed []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		if h := hashPartOf(n); h != "" {
			if s.roots[h] {
				continue
			}
			s.pending[h] = true
		}
		claimed = append(claimed, n)
	}
	return claimed
}

func (s *rootServer) release() {
	s.mu.Lock()
	clear(s.pending)
	s.mu.Unlock()
	s.changed.Broadcast()
}

// rooted tells whether a client has asked to keep a hash part.
func (s *rootServer) rooted(hashPart string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roots[hashPart]
}

func (s *rootServer) close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.changed.Broadcast()
	_ = os.Remove(s.path) // gc.lock is held until this returns; one that is left is nobody's
	_ = s.ln.Close()
	s.wg.Wait()
}

// hashPartOf is the hash part of a name in the store directory, also of one with
// a suffix like .lock; "" if it has none.
func hashPartOf(name string) string {
	p, err := storepath.ParseBase(name)
	if err != nil {
		return ""
	}
	return p.HashPart()
}
