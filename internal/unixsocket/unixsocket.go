// Package unixsocket reaches sockets of the file system whose paths are longer than the address of
// a socket takes, which is 108 bytes.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MaxPath is how long a path may be that goes into an address as it is.
const MaxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// Dial connects to the socket at a path of any length. Errors name that path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	return at("dial", path, func(name string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", name)
	})
}

// Listen makes a socket at a path of any length, at which nothing may be, and listens there. Errors
// name that path. The file stays when the listener is closed: its name may be another one's by then.
func Listen(path string) (net.Listener, error) {
	return at("listen", path, func(name string) (net.Listener, error) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			return nil, err
		}
		l.SetUnlinkOnClose(false)
		return l, nil
	})
}

// at does something by a name of a path that is short enough for an address.
func at[T any](op, path string, do func(name string) (T, error)) (T, error) {
	if len(path) <= MaxPath {
		return do(path)
	}
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	// The descriptor of its directory leads there, too, and shortly.
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		var none T
		return none, &net.OpError{Op: op, Net: "unix", Addr: addr, Err: errors.Unwrap(err)}
	}
	defer dir.Close()
	made, err := do(Via(dir, filepath.Base(path)))
	var opErr *net.OpError
	if errors.As(err, &opErr) {
		opErr.Addr = addr
	}
	return made, err
}

// Via names a file in an open directory, shortly enough for an address, for as long as the
// directory is open. Its name must not be longer than 64 bytes.
func Via(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}
