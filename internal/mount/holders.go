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

// Holders lists up to [MaxHolders] processes that keep the mount busy, those
// found until ctx ends. It sees processes whose /proc entries the caller may
// read. target helps to recognise mapped files, which are looked for only
// where nothing else was found. It does not wait for the file systems that
// processes use, but /proc itself may keep it waiting for a process; a thread
// that waits past the end of ctx ends when that process lets it.
func Holders(ctx context.Context, id ID, target string) []Holder {
	found := make(chan Holder, 2*MaxHolders)
	go func() {
		defer close(found)
		pids := processes()
		n := search(ctx, pids, found, func(pid int) (Holder, bool) { return linksOf(pid, id) })
		if n == 0 {
			search(ctx, pids, found, func(pid int) (Holder, bool) { return mapsOf(pid, id.Device, target) })
		}
	}()
	var out []Holder
	for {
		select {
		case h, ok := <-found:
			if !ok {
				return out
			}
			out = append(out, h)
		case <-ctx.Done():
			return out
		}
	}
}

func processes() []int {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func search(ctx context.Context, pids []int, found chan<- Holder, look func(pid int) (Holder, bool)) (n int) {
	for _, pid := range pids {
		if ctx.Err() != nil || n == MaxHolders {
			break
		}
		if h, ok := look(pid); ok {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			h.PID, h.Name = pid, strings.TrimSpace(string(comm))
			found <- h
			n++
		}
	}
	return n
}

func linksOf(pid int, id ID) (Holder, bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	for _, link := range []string{"cwd", "root", "exe"} {
		if path, ok := linksInto(filepath.Join(dir, link), id); ok {
			return Holder{Uses: link, Path: path}, true
		}
	}
	fds, _ := os.ReadDir(dir + "/fd")
	for _, fd := range fds {
		if path, ok := linksInto(filepath.Join(dir, "fd", fd.Name()), id); ok {
			return Holder{Uses: "fd " + fd.Name(), Path: path}, true
		}
	}
	return Holder{}, false
}

func mapsOf(pid int, dev Device, target string) (Holder, bool) {
	path, ok := mapsInto(fmt.Sprintf("/proc/%d/maps", pid), dev, target)
	return Holder{Uses: "maps", Path: path}, ok
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
