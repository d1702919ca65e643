package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/stack"
)

// The connections of a stack's lazy lowers can be kept by systemd, too: when 'strata up' is restarted or has crashed, systemd ends all
// processes of the service, among them those that serve the lowers.

// fdLowerName begins the names of their descriptors; a digest of where the lower is mounted follows.
const fdLowerName = "strata-lower-"

func lowerFDName(target string) string {
	sum := sha256.Sum256([]byte(target))
	return fmt.Sprintf("%s%x", fdLowerName, sum[:8])
}

// keptLowers are the connections of lazy lowers that systemd has given back, by their names.
type keptLowers map[string]*os.File

// takeKeptLowers finds them among the descriptors that were passed to this process, and leaves those to
// whoever takes sockets. Source: sd_listen_fds(3).
func takeKeptLowers() keptLowers {
	if pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID")); pid != os.Getpid() {
		return nil
	}
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	kept := keptLowers{}
	const first = 3
	for i := range min(n, len(names)) {
		if !strings.HasPrefix(names[i], fdLowerName) || kept[names[i]] != nil {
			continue
		}
		if fd, err := unix.FcntlInt(uintptr(first+i), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			kept[names[i]] = os.NewFile(uintptr(fd), "/dev/fuse")
		}
	}
	return kept
}

// take gives the one of a mount, nil if there is none.
func (k keptLowers) take(target string) *os.File {
	name := lowerFDName(target)
	f := k[name]
	delete(k, name)
	return f
}

// drop gives up those that nobody wanted, so that what is in their mounts fails instead of waiting for ever.
func (k keptLowers) drop() (err error) {
	for name, f := range k {
		err = errors.Join(err, f.Close(), notifySystemd("FDSTOREREMOVE=1\nFDNAME="+name, nil))
	}
	clear(k)
	return err
}

// keepLower has systemd keep the connection of a lower, if it keeps some for us.
func keepLower(m stack.LazyMount) error {
	if m.Private || m.TakeOver || !hasFDStore() {
		return nil
	}
	name := lowerFDName(m.Target)
	// One of an earlier mount would be taken for it.
	err := notifySystemd("FDSTOREREMOVE=1\nFDNAME="+name, nil)
	return errors.Join(err, notifySystemd("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, m.Conn))
}

// dropLowers takes back the connections of lowers that were mounted and are not any more.
func dropLowers(were, are []stack.Mounted) (err error) {
	if !hasFDStore() {
		return nil
	}
	for _, m := range were {
		if m.Record.FSType == fusefs.FSType && !slices.ContainsFunc(are, func(left stack.Mounted) bool { return left.Given == m.Given }) {
			err = errors.Join(err, notifySystemd("FDSTOREREMOVE=1\nFDNAME="+lowerFDName(m.Given), nil))
		}
	}
	return err
}
