package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/unixsocket"
)

// socketMode lets everybody connect; who may do what is decided by who it is.
// Whoever wants to keep people out altogether does so with the mode of the
// directory that the socket is in.
const socketMode = 0o666

// Listener is a listening socket, and the file by which clients find it.
type Listener struct {
	net.Listener
	path string      // "" when the file is not ours to remove
	made fs.FileInfo // the file when we made it
	// Replaced tells that another process was listening on the same path, and
	// lost it.
	Replaced bool
}

// Listen makes a unix socket that everybody may connect to, and the directories
// above it. At no moment is there a socket at path that refuses a connection: it
// is bound and opened up under another name and then renamed, over whatever
// socket was there before. Anything else than a socket is left alone.
func Listen(path string) (*Listener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket: %w", err)
	}
	dir, base := filepath.Split(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create directory of socket '%s': %w", path, err)
	}
	replaced, err := checkReplaceable(path)
	if err != nil {
		return nil, err
	}
	// Where the directory's path is too long for a socket address, its
	// descriptor is not. The socket stays reachable by it only while bind runs.
	dirfd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory of socket '%s': %w", path, err)
	}
	defer unix.Close(dirfd)
	temp := fmt.Sprintf(".%.60s.%d", base, os.Getpid())
	l, err := bind(dirfd, dir, temp)
	if err != nil {
		return nil, fmt.Errorf("bind socket '%s': %w", path, err)
	}
	made, err := publish(dirfd, dir, temp, base)
	if err != nil {
		_ = unix.Unlinkat(dirfd, temp, 0)
		_ = l.Close()
		return nil, fmt.Errorf("publish socket '%s': %w", path, err)
	}
	return &Listener{Listener: l, path: path, made: made, Replaced: replaced}, nil
}

func bind(dirfd int, dir, name string) (*net.UnixListener, error) {
	// One of an earlier process with our number that was killed in between.
	if err := unix.Unlinkat(dirfd, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	addr := filepath.Join(dir, name)
	if len(addr) > unixsocket.MaxPath {
		addr = "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + name
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // its name is about to change
	return l, nil
}

// publish opens the socket to everybody and gives it its name.
func publish(dirfd int, dir, temp, base string) (fs.FileInfo, error) {
	if err := unix.Fchmodat(dirfd, temp, socketMode, 0); err != nil {
		return nil, err
	}
	if err := unix.Renameat(dirfd, temp, dirfd, base); err != nil {
		return nil, err
	}
	return os.Lstat(filepath.Join(dir, base))
}

// checkReplaceable tells whether somebody listens on path, and fails if it is
// anything but a socket.
func checkReplaceable(path string) (inUse bool, err error) {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at socket '%s': %w", path, err)
	case fi.Mode().Type() != fs.ModeSocket:
		return false, fmt.Errorf("cannot listen on '%s': it exists and is not a socket", path)
	}
	c, err := unixsocket.Dial(context.Background(), path)
	if err != nil {
		return false, nil //nolint:nilerr // nobody answers: stale
	}
	_ = c.Close()
	return true, nil
}

// Close stops listening and removes the socket file, unless another process has
// put its own there. Closing twice does nothing.
func (l *Listener) Close() error {
	if l.path != "" {
		if fi, err := os.Lstat(l.path); err == nil && os.SameFile(fi, l.made) {
			_ = os.Remove(l.path) // gone meanwhile is as good
		}
		l.path = ""
	}
	if err := l.Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Activated gives the sockets that systemd passed to this process, none if it
// was not started by socket activation.
// Source: sd_listen_fds(3).
func Activated() ([]*Listener, error) {
	files := activation.Files(true)
	var all []*Listener
	for _, f := range files {
		l, err := net.FileListener(f)
		_ = f.Close() // FileListener has a duplicate
		if errors.Is(err, unix.ENOTSOCK) {
			continue // somebody else has put it by
		}
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
			return nil, fmt.Errorf("socket '%s' passed by systemd: %w", f.Name(), err)
		}
		all = append(all, &Listener{Listener: l})
	}
	return all, nil
}
