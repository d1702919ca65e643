package execute

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is what a builder writes to: programs behave differently if that is
// not a terminal, so it is one.
type terminal struct {
	master *os.File // what the builder wrote is read here; EIO once nobody has the slave
	slave  *os.File // stdout and stderr of the builder
}

// openTerminal makes a terminal that changes nothing of what is written to it. Its
// user is own, if not nil.
func openTerminal(own *owner) (*terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening pseudoterminal master: %w", err)
	}
	t := &terminal{master: os.NewFile(uintptr(fd), "/dev/ptmx")}
	if err := t.openSlave(fd, own); err != nil {
		t.close()
		return nil, fmt.Errorf("opening pseudoterminal slave: %w", err)
	}
	return t, nil
}

// openSlave opens the slave by its master and not by a name: where its name would
// be, another instance of devpts may be mounted.
func (t *terminal) openSlave(master int, own *owner) error {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlocking: %w", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return errno
	}
	t.slave = os.NewFile(fd, "pseudoterminal")
	if own != nil {
		if err := t.slave.Chown(own.uid, 0); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(int(fd), 0o600); err != nil {
		return err
	}
	return makeRaw(int(fd))
}

// makeRaw does what cfmakeraw(3) does: no "\n" becomes "\r\n".
func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// closeSlave gives up our own hold on the slave, once the builder has it.
func (t *terminal) closeSlave() {
	_ = t.slave.Close()
	t.slave = nil
}

// maxRest bounds what is read of a terminal into which somebody writes without end,
// in bytes. The kernel keeps less than that.
const maxRest = 1 << 20

// rest gives what is still in the terminal, and waits for nothing.
func (t *terminal) rest(take func([]byte)) {
	conn, err := t.master.SyscallConn()
	if err != nil || t.master.SetReadDeadline(time.Time{}) != nil {
		return
	}
	buf := make([]byte, readSize)
	for left, n := maxRest, 1; n > 0 && left > 0; left -= n {
		err := conn.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), buf)
			return true // whether there was something or not
		})
		if err != nil || n <= 0 {
			return
		}
		take(buf[:n])
	}
}

// close gives both ends back.
func (t *terminal) close() {
	for _, f := range []*os.File{t.master, t.slave} {
		if f != nil {
			_ = f.Close()
		}
	}
}
