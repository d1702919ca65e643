package fusefs_test

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/testenv"
)

// serveVar makes this binary serve the connection at descriptor 3 with the objects in
// the directory that it names. takeOverVar tells that somebody did so before.
const (
	serveVar    = "STRATA_TEST_SERVE"
	takeOverVar = "STRATA_TEST_TAKE_OVER"
	readVar     = "STRATA_TEST_READ" // see readAgain
)

func TestMain(m *testing.M) {
	if path := os.Getenv(readVar); path != "" {
		readAgain(path, os.Args[1])
	}
	dir := os.Getenv(serveVar)
	if dir == "" {
		os.Exit(m.Run())
	}
	src, err := newDirSource(dir)
	if err == nil {
		c := fusefs.NewConn(os.NewFile(3, "/dev/fuse"))
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err = fusefs.Serve(ctx, c, src, fusefs.ServeOptions{
			TakeOver: fusefs.Takeover{After: os.Getenv(takeOverVar) != ""},
			UID:      uint32(os.Geteuid()), GID: uint32(os.Getegid()),
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if ctx.Err() != nil {
			err = nil // it was told to end
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// dirSource shows the entries of a directory as objects.
type dirSource struct {
	dir     string
	names   []string // in order; the number of an object is its index and 1
	mu      sync.Mutex
	objects map[uint64]*dirObject
}

type dirObject struct {
	number uint64
	path   string
	tree   *fusefs.Tree
}

func newDirSource(dir string) (*dirSource, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &dirSource{dir: dir, objects: map[uint64]*dirObject{}}
	for _, e := range entries {
		s.names = append(s.names, e.Name())
	}
	return s, nil
}

func (s *dirSource) Lookup(ctx context.Context, name string) (fusefs.Object, error) {
	if name == "slow" { // for who wants to be interrupted
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if name == "late" { // there as soon as the directory has it
		for {
			if _, err := os.Stat(filepath.Join(s.dir, name)); err == nil {
				return s.Object(ctx, 1)
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	i := slices.Index(s.names, name)
	if i < 0 {
		return nil, fs.ErrNotExist
	}
	return s.Object(ctx, uint64(i)+1)
}

func (s *dirSource) Object(_ context.Context, number uint64) (fusefs.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[number]; o != nil {
		return o, nil
	}
	if number == 0 || number > uint64(len(s.names)) {
		return nil, fusefs.ErrStale
	}
	path := filepath.Join(s.dir, s.names[number-1])
	tree, err := treeOf(path)
	if err != nil {
		return nil, err
	}
	o := &dirObject{number: number, path: path, tree: tree}
	s.objects[number] = o
	return o, nil
}

func (s *dirSource) Known(after uint64) iter.Seq[fusefs.Known] {
	return func(yield func(fusefs.Known) bool) {
		for i := after; i < uint64(len(s.names)); i++ {
			if !yield(fusefs.Known{Number: i + 1, Name: s.names[i]}) {
				return
			}
		}
	}
}

// treeOf builds the tree of what is at path.
func treeOf(path string) (*fusefs.Tree, error) {
	describe := func(path string) fusefs.Node {
		fi, err := os.Lstat(path)
		if err != nil {
			return fusefs.Node{}
		}
		switch {
		case fi.IsDir():
			return fusefs.Node{Kind: fusefs.Directory}
		case fi.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			return fusefs.Node{Kind: fusefs.Symlink, Size: int64(len(target)), Target: target}
		case fi.Mode()&0o111 != 0:
			return fusefs.Node{Kind: fusefs.Executable, Size: fi.Size()}
		}
		return fusefs.Node{Kind: fusefs.Regular, Size: fi.Size()}
	}
	return fusefs.BuildTree(path, describe, func(path string) iter.Seq2[string, string] {
		return func(yield func(string, string) bool) {
			entries, _ := os.ReadDir(path)
			for _, e := range entries {
				if !yield(e.Name(), filepath.Join(path, e.Name())) {
					return
				}
			}
		}
	})
}

func (o *dirObject) Number() uint64     { return o.number }
func (o *dirObject) Tree() *fusefs.Tree { return o.tree }

func (o *dirObject) ReadAt(_ context.Context, node uint32, p []byte, off int64) (int, error) {
	f, err := os.Open(filepath.Join(o.path, o.tree.Path(node)))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

func (o *dirObject) Readlink(_ context.Context, node uint32) (string, error) {
	return o.tree.Node(node).Target, nil
}

// A served mount, whose server is a child process.
type served struct {
	t       testing.TB
	objects string // the directory that is shown
	at      string // where
	conn    *fusefs.Conn
	server  *exec.Cmd
}

// serve mounts a directory of objects. The test must be isolated.
func serve(t testing.TB, objects string) *served {
	t.Helper()
	s := &served{t: t, objects: objects, at: filepath.Join(testenv.Scratch(t), "mnt")}
	if err := os.Mkdir(s.at, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.conn, _, err = fusefs.Mount(fusefs.MountOptions{Target: s.at}); err != nil {
		t.Fatal(err)
	}
	s.start(false)
	t.Cleanup(func() {
		if err := syscall.Unmount(s.at, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
		s.kill()
		_ = s.conn.Close()
	})
	return s
}

// start begins to serve.
func (s *served) start(takeOver bool) {
	s.t.Helper()
	s.server = exec.Command("/proc/self/exe")
	s.server.Env = append(os.Environ(), serveVar+"="+s.objects)
	if takeOver {
		s.server.Env = append(s.server.Env, takeOverVar+"=1")
	}
	s.server.ExtraFiles = []*os.File{s.conn.File()}
	s.server.Stderr = os.Stderr
	s.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *served) kill() {
	_ = s.server.Process.Kill()
	_ = s.server.Wait()
}
