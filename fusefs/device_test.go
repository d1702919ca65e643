package fusefs

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestDeviceThatCannotBeOpened(t *testing.T) {
	for errno, words := range map[syscall.Errno]string{
		syscall.EACCES: "chmod 666 /dev/fuse", syscall.EPERM: "--device /dev/fuse",
		syscall.ENOENT: "modprobe fuse", syscall.ENODEV: "modprobe fuse", syscall.EMFILE: "",
	} {
		plain := &os.PathError{Op: "open", Path: device, Err: errno}
		err := explain(plain)
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), words) || (words == "") != (err.Error() == plain.Error()) {
			t.Errorf("%v: %v", plain, err)
		}
	}
}
