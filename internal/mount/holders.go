package mount

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxHolders is the most processes that [Holders] names.
const MaxHolders = 5

// Holder is a process that uses a mount.
type Holder struct {
	PID  int
	Name string // command name, as in /proc/PID/comm
	Uses string // one of its uses: "cwd", "root", "exe", "fd 3", "maps"
	Path string // what it uses there, as the kernel shows it
}

func (h Holder) String() string {
	return fmt.Sprintf("process %d (%s) has %s %q", h.PID, h.Name, h.Uses, h.Path)
}

// Holders lists up to [MaxHolders] processes that keep the mount busy. It sees
// those whose /proc entries the caller may read. target helps to recognise
// mapped files. It never waits for the file systems that processes use.
func Holders(ctx context.Context, id ID, target string) []Holder {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	var out []Holder
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if ctx.Err() != nil || len(out) == MaxHolders {
			break
		}
		if h, ok := holds(pid, id, target); ok {
			out = append(out, h)
		}
	}
	return out
}

func holds(pid int, id ID, target string) (Holder, bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	found := func(uses, path string) (Holder, bool) {
		comm, _ := os.ReadFile(dir + "/comm")
		return Holder{PID: pid, Name: strings.TrimSpace(string(comm)), Uses: uses, Path: path}, true
	}
	for _, link := range []string{"cwd", "root", "exe"} {
		if path, ok := linksInto(filepath.Join(dir, link), id); ok {
			return found(link, path)
		}
	}
	fds, _ := os.ReadDir(dir + "/fd")
	for _, fd := range fds {
		if path, ok := linksInto(filepath.Join(dir, "fd", fd.Name()), id); ok {
			return found("fd "+fd.Name(), path)
		}
	}
	if path, ok := mapsInto(dir+"/maps", id.Device, target); ok {
		return found("maps", path)
	}
	return Holder{}, false
}

// linksInto reports whether a magic link of /proc leads into the mount. The
// links are followed without a path walk and asked without synchronising, so
// a dead server behind one cannot block us.
func linksInto(link string, id ID) (string, bool) {
	var st unix.Statx_t
	flags := unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
	if statx(unix.AT_FDCWD, link, flags, unix.STATX_MNT_ID, &st) != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return "", false
	}
	if st.Mnt_id != id.Mount {
		return "", false
	}
	path, _ := os.Readlink(link)
	return path, true
}

// mapsInto looks for a mapped file of the mount's file system whose name lies
// under target, or has no place any more.
func mapsInto(file string, dev Device, target string) (string, bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer f.Close()
	want := fmt.Sprintf("%02x:%02x", dev.Major, dev.Minor)
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// address perms offset dev inode path
		fields := strings.Fields(sc.Text())
		if len(fields) < 6 || fields[5][0] != '/' {
			continue
		}
		path := sc.Text()[strings.IndexByte(sc.Text(), '/'):]
		under := path == target || strings.HasPrefix(path, target+"/")
		if under && (fields[3] == want || dev == Device{}) {
			return path, true
		}
	}
	return "", false
}
