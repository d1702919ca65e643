package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fileSystems are those that [FileSystem] makes: the program that does it, with arguments, and
// the smallest size that it is content with, in MiB.
var fileSystems = map[string]struct {
	mkfs []string
	size int64
}{
	"btrfs": {[]string{"mkfs.btrfs", "-q", "-f"}, 128},
	"xfs":   {[]string{"mkfs.xfs", "-q", "-f", "-m", "reflink=1"}, 320},
	"ext4":  {[]string{"mkfs.ext4", "-q", "-F"}, 64},
}

// FileSystem gives an empty directory on a file system of its own, "btrfs", "xfs" or
// "ext4", or skips the test where none can be made, which takes real root. It is in the
// caller's mount namespace (see [Isolate]) until the test ends.
func FileSystem(t testing.TB, kind string) string {
	t.Helper()
	PrivilegedRoot(t)
	how := fileSystems[kind]
	mkfs := Tool(t, how.mkfs[0])
	dir := Scratch(t)
	img, at := filepath.Join(dir, kind+".img"), filepath.Join(dir, kind)
	f, err := os.Create(img)
	if err == nil {
		err = f.Truncate(how.size << 20)
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Mkdir(at, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, append(how.mkfs[1:], img)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	if err := mountLoop(kind, img, at); err != nil {
		Skip(t, err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Errorf("unmount %s: %v", at, err)
		}
	})
	return at
}

// MountEROFS shows an image at a directory of the caller's mount namespace, by way of a loop
// device: the kernel reads images without one only from some file systems, of which tmpfs is none. The
// caller unmounts it, and with that the device goes.
func MountEROFS(t testing.TB, img, at string) {
	t.Helper()
	if err := mountLoop("erofs", img, at); err != nil {
		t.Fatal(err)
	}
}

func mountLoop(kind, img, at string) error {
	if out, err := exec.Command("mount", "-o", "loop", "-t", kind, img, at).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot mount %s here: %w: %s", kind, err, out)
	}
	return nil
}
