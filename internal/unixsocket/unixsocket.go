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
	var d net.Dialer
	if len(path) <= MaxPath {
		return d.DialContext(ctx, "unix", path)
	}
	// The descriptor of its directory leads there, too, and shortly.
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: errors.Unwrap(err)}
	}
	defer dir.Close()
	c, err := d.DialContext(ctx, "unix", Via(dir, filepath.Base(path)))
	var op *net.OpError
	if errors.As(err, &op) {
		op.Addr = &net.UnixAddr{Name: path, Net: "unix"}
	}
	return c, err
}

// Via names a file in an open directory, shortly enough for an address, for as long as the
// directory is open. Its name must not be longer than 64 bytes.
func Via(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}
