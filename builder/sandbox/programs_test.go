package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/sandbox"
)

// programs are builders written in Go: this very program, started under another
// name. What they return is an error of theirs.
var programs = map[string]func(args []string) error{
	"privileges": tryPrivileges,
	"loopback":   tryLoopback,
	"dial":       dial,
	"habits":     posixHabits,
	"parent":     beParent,
}

const programPrefix = "program:"

func TestMain(m *testing.M) {
	if name, ok := strings.CutPrefix(os.Args[0], programPrefix); ok {
		if err := programs[name](os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program makes a builder of one of the programs.
func program(t testing.TB, s sandbox.Spec, name string, args ...string) sandbox.Spec {
	t.Helper()
	// Not every user can go where go has put this program.
	file := filepath.Join(openScratch(t), "program")
	content, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(file, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Path, s.Args = file, append([]string{programPrefix + name}, args...)
	if s.Isolation != nil {
		s.Path = "/program"
		in := *s.Isolation
		in.Mounts = append(slices.Clip(in.Mounts), sandbox.Mount{Source: file, Target: s.Path})
		s.Isolation = &in
	}
	return s
}

// tryPrivileges tries what builders must not do, and names what works.
func tryPrivileges([]string) error {
	var errs []error
	refused := func(what string, want error, err error) {
		if !errors.Is(err, want) {
			errs = append(errs, fmt.Errorf("%s: %v, want %v", what, err, want))
		}
	}
	const file, dir = "file", "dir"
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(file, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	const setuid = 0o4755
	for _, mode := range []uint32{setuid, 0o2755, 0o6755} {
		refused("chmod", unix.EPERM, unix.Chmod(file, mode))
		refused("chmod of a directory", unix.EPERM, unix.Chmod(dir, mode))
		refused("fchmod", unix.EPERM, unix.Fchmod(fd, mode))
		refused("fchmodat", unix.EPERM, unix.Fchmodat(unix.AT_FDCWD, file, mode, 0))
		if err := unix.Fchmodat(unix.AT_FDCWD, file, mode, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOSYS) {
			refused("fchmodat2", unix.EPERM, err)
		}
		_, err = unix.Open("new", unix.O_CREAT|unix.O_WRONLY, mode)
		refused("open", unix.EPERM, err)
		_, err = unix.Openat(unix.AT_FDCWD, ".", unix.O_TMPFILE|unix.O_WRONLY, mode)
		refused("openat of a temporary file", unix.EPERM, err)
		refused("mknod", unix.EPERM, unix.Mknod("new", unix.S_IFREG|mode, 0))
	}
	refused("chmod without such bits", nil, unix.Chmod(file, 0o1755))
	_, err = unix.Open(file, unix.O_RDONLY, setuid) // the mode means nothing
	refused("open of what is there", nil, err)

	refused("setxattr", unix.ENOTSUP, unix.Setxattr(file, "user.x", []byte("y"), 0))
	refused("lsetxattr", unix.ENOTSUP, unix.Lsetxattr(file, "user.x", []byte("y"), 0))
	refused("fsetxattr", unix.ENOTSUP, unix.Fsetxattr(fd, "user.x", []byte("y"), 0))
	_, err = unix.Getxattr(file, "system.posix_acl_access", nil)
	refused("getxattr", unix.ENOTSUP, err)

	if os.Geteuid() != 0 {
		refused("mknod of a device", unix.EPERM, unix.Mknod("null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		refused("mount", unix.EPERM, unix.Mount("none", dir, "tmpfs", 0, ""))
		refused("chroot", unix.EPERM, unix.Chroot("."))
		if err := unix.Setuid(0); err == nil {
			errs = append(errs, errors.New("it became root"))
		}
	}
	return errors.Join(errs...)
}

// tryLoopback talks to itself over the loopback interface.
func tryLoopback([]string) error {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		if err := dial([]string{"tcp", l.Addr().String()}); err != nil {
			return err
		}
	}
	return nil
}

func dial(args []string) error {
	c, err := net.Dial(args[0], args[1])
	if err != nil {
		return err
	}
	return c.Close()
}

// beParent starts a builder that never ends, says so, and waits to be killed. Its
// output is that of the builder too.
func beParent(args []string) error {
	var in *sandbox.Isolation
	if len(args) > 0 {
		in = new(sandbox.Isolation)
		if err := json.Unmarshal([]byte(args[0]), in); err != nil {
			return err
		}
	}
	s := shell(in, "(setsid sleep 1000000 &) ; sleep 1000000")
	s.Output = os.Stdout
	if _, err := sandbox.Start(context.Background(), s); err != nil {
		return err
	}
	fmt.Println("started")
	select {}
}
