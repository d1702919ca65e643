package fusefs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// device is what a connection is made by.
const device = "/dev/fuse"

// Available tells why no mount can be made here for want of the device, and what can be done; nil if
// there is one.
func Available() error {
	f, err := openDevice()
	if err != nil {
		return err
	}
	return f.Close()
}

func openDevice() (*os.File, error) {
	const major, minor = 10, 229 // of every Linux
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, explain(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(major, minor) {
		// As containers hide one.
		return nil, errors.Join(fmt.Errorf("what is at '%s' is another device: a container has to be started with the true one ('--device %s')", device, device), f.Close())
	}
	return f, nil
}

// explain says what can be done about a device that cannot be opened.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w; whoever may read and write it can mount, which elsewhere is everybody: root can give that right ('chmod 666 %s')", err, device)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w; a container has to be started with the right to it ('--device %s')", err, device)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w; root can load it ('modprobe fuse'), and a container has to be started with it ('--device %s')", err, device)
	}
	return err
}
