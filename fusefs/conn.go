package fusefs

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Conn is a connection to the kernel: the mount's end that somebody serves.
type Conn struct {
	dev *os.File
	fd  int // of dev; it blocks
}

// NewConn makes a connection of an open file that another process mounted with and
// handed over. It belongs to the Conn from now on.
func NewConn(dev *os.File) *Conn { return &Conn{dev: dev, fd: int(dev.Fd())} }

// File is the open file, to be handed to another process.
func (c *Conn) File() *os.File { return c.dev }

// Close lets go of the connection. If nobody else has it open, everything in the
// mount fails from now on. No call may be under way.
func (c *Conn) Close() error { return c.dev.Close() }

// errGone: the mount is no more.
var errGone = errors.New("the file system has been unmounted")

// read waits for a request.
func (c *Conn) read(buf []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, buf)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: it was taken back
		case unix.ENODEV, unix.ECONNABORTED:
			return 0, errGone
		default:
			return 0, fmt.Errorf("reading a request of the kernel: %w", err)
		}
	}
}

// write sends one message.
func (c *Conn) write(message []byte) error {
	for {
		_, err := unix.Write(c.fd, message)
		if err != unix.EINTR {
			return err //nolint:wrapcheck // an errno, for those who tell them apart
		}
	}
}

// AwaitEnd waits until the mount is gone, wherever it showed and whoever used it, or for as long as d. It tells
// whether it is.
func (c *Conn) AwaitEnd(d time.Duration) bool {
	for end := time.Now().Add(d); ; {
		fds := []unix.PollFd{{Fd: int32(c.fd)}} // for nothing but errors, which a connection without a mount has
		n, err := unix.Poll(fds, int(max(0, time.Until(end).Milliseconds())))
		if err != unix.EINTR {
			return n > 0 && fds[0].Revents&unix.POLLERR != 0
		}
	}
}

// notify tells the kernel something that it has not asked for.
func (c *Conn) notify(code int32, body []byte) error {
	message := make([]byte, headerOut, headerOut+len(body))
	h := as[fuse.OutHeader](message)
	h.Length, h.Status = uint32(headerOut+len(body)), code
	return c.write(append(message, body...))
}

// RootChanged makes the kernel ask anew for the listing and the attributes of the root. It must not
// be called by a request of the root that is under way.
func (c *Conn) RootChanged() error {
	err := c.notify(-fuse.NOTIFY_INVAL_INODE, bytesOf(&fuse.NotifyInvalInodeOut{Ino: fuse.FUSE_ROOT_ID, Length: -1}))
	return notified("the listing of the root", err)
}

// NameChanged makes the kernel forget what it knows of a name in the root. The
// same holds as for RootChanged.
func (c *Conn) NameChanged(name string) error {
	body := bytesOf(&fuse.NotifyInvalEntryOut{Parent: fuse.FUSE_ROOT_ID, NameLen: uint32(len(name))})
	body = append(append(body[:len(body):len(body)], name...), 0)
	return notified(name, c.notify(-fuse.NOTIFY_INVAL_ENTRY, body))
}

// ContentsChanged makes the kernel forget what it keeps of the contents and attributes of a node. The same
// holds as for RootChanged.
func (c *Conn) ContentsChanged(id uint64) error {
	err := c.notify(-fuse.NOTIFY_INVAL_INODE, bytesOf(&fuse.NotifyInvalInodeOut{Ino: id, Length: -1}))
	return notified("the contents of a file", err)
}

// notified makes an error of what the kernel said to a notification. That it
// does not know what it is to forget is fine.
func notified(what string, err error) error {
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return fmt.Errorf("making the kernel forget %s: %w", what, err)
}

// resend asks for what a process read that is gone. A kernel that cannot do so says
// EINVAL.
func (c *Conn) resend() error { return c.notify(-fuse.NOTIFY_RESEND, nil) }

// wake makes one process that waits for a request get one, which needs no answer:
// the kernel is asked for no bytes of what it keeps of the root.
func (c *Conn) wake() error {
	return c.notify(-fuse.NOTIFY_RETRIEVE_CACHE, bytesOf(&fuse.NotifyRetrieveOut{Nodeid: fuse.FUSE_ROOT_ID}))
}

// A name of 255 bytes with its zero, and the fixed part of a request, always fit.
var _ [minRead - 256 - 128 - unsafe.Sizeof(fuse.InHeader{})]struct{}
