package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/store"
)

// systemd can keep the connection of a mount while the service that keeps it is restarted: the file
// descriptor is given to it, and comes back with the next process. Programs wait meanwhile.
// Source: the manual pages sd_notify(3) ("FDSTORE=1"), sd_listen_fds(3) and systemd.service(5)
// ("FileDescriptorStoreMax=").

// fdStoreName begins the names of descriptors in the store; the name of the mount's state directory follows.
const fdStoreName = "strata-lazy-"

// hasFDStore tells whether there is somebody who keeps descriptors for us.
func hasFDStore() bool {
	n := os.Getenv("FDSTORE") // how many may be stored
	return os.Getenv("NOTIFY_SOCKET") != "" && n != "" && n != "0"
}

// notifySystemd sends what sd_notify(3) sends, with a descriptor if f is not nil.
func notifySystemd(text string, f *os.File) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	defer unix.Close(socket)
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	if err := unix.Sendmsg(socket, []byte(text), rights, &unix.SockaddrUnix{Name: path}, 0); err != nil {
		return fmt.Errorf("telling systemd at '%s': %w", path, err)
	}
	return nil
}

// storeFD gives the connection of a mount to systemd. It keeps it until the service is stopped, and not
// watches it: a connection without a server is no broken one.
func (m *lazyMount) storeFD(c *fusefs.Conn) error {
	return notifySystemd("FDSTORE=1\nFDPOLL=0\nFDNAME="+fdStoreName+filepath.Base(m.state), c.File())
}

// dropFD takes it back, when the mount is gone.
func (m *lazyMount) dropFD() error {
	return notifySystemd("FDSTOREREMOVE=1\nFDNAME="+fdStoreName+filepath.Base(m.state), nil)
}

// storedMount finds the mount of a store at a directory among the descriptors that systemd gave back; nil if there
// is none. What it has of other mounts is given up.
func storedMount(ref store.Reference, dir string) (*lazyMount, *fusefs.Conn, error) {
	var mine *lazyMount
	var conn *fusefs.Conn
	var errs []error
	for _, f := range activation.Files(true) {
		name, ok := strings.CutPrefix(f.Name(), fdStoreName)
		if !ok || name != filepath.Base(name) || name == ".." {
			_ = f.Close()
			continue
		}
		m, err := readLazyMount(filepath.Join(lazyPlaces(), name))
		if err == nil && mine == nil && m.Target == dir && m.Store == ref.String() {
			mine, conn = m, fusefs.NewConn(f)
			continue
		}
		// It is of another configuration, or of nobody.
		_ = f.Close()
		errs = append(errs, m.dropFD())
		if m.Target != "" {
			if err := unix.Unmount(m.Target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("unmounting '%s': %w", m.Target, err))
			}
			errs = append(errs, os.RemoveAll(m.state))
		}
	}
	return mine, conn, errors.Join(errs...)
}
