package sandbox_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// habits are what programs do with files while something is built. Each works in
// an empty directory of its own, and says what it found in words that do not depend
// on the time or on numbers that happen to be so. "input" is an object that was
// there before and is only read, "old" one that may be written to.
var habits = map[string]func(h *habit){
	"directories are renamed": func(h *habit) {
		h.mkdir("a/b/c")
		h.write("a/b/c/file", "x")
		before := h.stat("a/b")
		h.say("rename", os.Rename("a", "z"))
		h.say("rename into another", os.Rename("z/b", "b"))
		h.say("same inode", before.Ino == h.stat("b").Ino)
		h.say("content", h.read("b/c/file"))
		h.say("rename into itself", os.Rename("b", "b/c/d"))
	},
	"names are replaced": func(h *habit) {
		h.write("a", "a")
		h.write("b", "b")
		h.mkdir("empty", "full/x", "dir")
		f := h.open("b", os.O_RDONLY)
		h.say("file over file", os.Rename("a", "b"))
		h.say("content", h.read("b"))
		h.say("the open one", h.readFrom(f))
		h.say("directory over an empty one", unix.Rename("dir", "empty"))
		h.say("directory over a full one", unix.Rename("empty", "full"))
		h.say("file over directory", unix.Rename("b", "full"))
		h.say("directory over file", unix.Rename("full", "b"))
		h.write("c", "c")
		h.say("without replacing", unix.Renameat2(unix.AT_FDCWD, "c", unix.AT_FDCWD, "b", unix.RENAME_NOREPLACE))
		h.say("exchange", unix.Renameat2(unix.AT_FDCWD, "c", unix.AT_FDCWD, "b", unix.RENAME_EXCHANGE))
		h.say("contents", h.read("b")+h.read("c"))
		h.say("exchange of file and directory", unix.Renameat2(unix.AT_FDCWD, "c", unix.AT_FDCWD, "full", unix.RENAME_EXCHANGE))
	},
	"files have several names": func(h *habit) {
		h.write("a", "a")
		h.say("link", os.Link("a", "b"))
		h.say("links", h.stat("a").Nlink, h.stat("b").Nlink, h.stat("a").Ino == h.stat("b").Ino)
		h.write("b", "changed")
		h.say("content", h.read("a"))
		h.say("rename of one to the other", os.Rename("a", "b"))
		h.say("both", h.exists("a"), h.exists("b"))
		h.say("remove", os.Remove("a"))
		h.say("links", h.stat("b").Nlink)
		h.mkdir("dir")
		h.say("link of a directory", os.Link("dir", "dir2"))
		h.say("link of a symlink", os.Symlink("b", "s"), os.Link("s", "s2"))
		h.say("it is one", h.mode("s2"))
		h.say("link from an input", errno(os.Link(h.input+"/file", "stolen")))
	},
	"files have no name yet": func(h *habit) {
		fd, err := unix.Open(".", unix.O_TMPFILE|unix.O_RDWR, 0o644)
		h.say("open", err)
		if err != nil {
			return
		}
		f := os.NewFile(uintptr(fd), "temporary")
		defer f.Close()
		_, err = f.WriteString("content")
		h.say("write", err, h.fstat(f).Nlink)
		h.say("link", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, "named", unix.AT_SYMLINK_FOLLOW))
		h.say("content", h.read("named"), h.fstat(f).Nlink, h.fstat(f).Ino == h.stat("named").Ino)
	},
	"open files are removed": func(h *habit) {
		h.write("a", "content")
		f := h.open("a", os.O_RDWR)
		h.say("remove", os.Remove("a"), h.fstat(f).Nlink)
		_, err := f.WriteAt([]byte("C"), 0)
		h.say("write", err, h.readFrom(f))
		again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
		h.say("open it again", err, h.readFrom(again))
		h.say("truncate", f.Truncate(2), h.fstat(f).Size)
		h.mkdir("dir")
		d := h.open("dir", os.O_RDONLY)
		h.say("remove a directory", os.Remove("dir"))
		h.say("make something in it", errno(unix.Mkdirat(int(d.Fd()), "x", 0o755)))
	},
	"times are set": func(h *habit) {
		h.write("a", "")
		h.mkdir("d")
		h.say("symlink", os.Symlink("nothing", "s"))
		for _, at := range []time.Time{time.Unix(0, 0), time.Unix(1, 0), time.Unix(1e9, 123456789), time.Unix(4e9, 1), time.Unix(-1, 0)} {
			for _, name := range []string{"a", "d", "s"} {
				ts := unix.NsecToTimespec(at.UnixNano())
				err := unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
				h.say(name, err, h.mtime(name).Sub(at.UTC()))
			}
		}
		h.say("rename", os.Rename("a", "d/a"), h.mtime("d/a").Unix())
		h.say("link", os.Link("d/a", "b"), h.mtime("b").Unix())
		h.say("chmod", os.Chmod("b", 0o400), h.mtime("b").Unix())
		before := h.mtime("d")
		h.write("d/new", "")
		h.say("a new file in a directory", h.mtime("d").After(before))
		h.write("b2", "x")
		h.say("ctime follows", h.ctime("b2").Sub(h.mtime("b2")) >= 0)
		h.write("first", "")
		h.write("second", "")
		h.say("in order", !h.mtime("second").Before(h.mtime("first")))
	},
	"files are locked": func(h *habit) {
		h.write("a", "content")
		one, two := h.open("a", os.O_RDWR), h.open("a", os.O_RDWR)
		h.say("flock", unix.Flock(int(one.Fd()), unix.LOCK_EX), unix.Flock(int(two.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		h.say("unlock", unix.Flock(int(one.Fd()), unix.LOCK_UN), unix.Flock(int(two.Fd()), unix.LOCK_SH|unix.LOCK_NB))
		lock := func(f *os.File, kind int16, start, length int64) error {
			return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: start, Len: length})
		}
		h.say("a range", lock(one, unix.F_WRLCK, 0, 3), lock(two, unix.F_RDLCK, 0, 1), lock(two, unix.F_WRLCK, 3, 1))
		l := unix.Flock_t{Type: unix.F_WRLCK}
		h.say("who has it", unix.FcntlFlock(two.Fd(), unix.F_OFD_GETLK, &l), l.Type, l.Len)
		r := h.open("a", os.O_RDONLY)
		h.say("for writing, of a file open for reading", unix.FcntlFlock(r.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	},
	"numbers identify files": func(h *habit) {
		h.mkdir("d/e")
		h.write("d/a", "")
		h.write("d/b", "")
		a, b, d := h.stat("d/a"), h.stat("d/b"), h.stat("d")
		h.say("of different files", a.Ino != b.Ino, a.Ino != d.Ino)
		h.say("of one file system", a.Dev == b.Dev, a.Dev == d.Dev, a.Dev == h.stat(".").Dev)
		h.say("rename", os.Rename("d/a", "d/e/a"), h.stat("d/e/a").Ino == a.Ino)
		h.say("chmod", os.Chmod("d/b", 0o600), h.stat("d/b").Ino == b.Ino)
		h.say("in a listing", h.listed("d", "b") == b.Ino, h.listed("d", "e") == h.stat("d/e").Ino)
		h.say("the parent", h.stat("d/e/..").Ino == d.Ino)
		f := h.open("d/b", os.O_RDONLY)
		h.say("of an open file", h.fstat(f).Ino == b.Ino, h.fstat(f).Dev == b.Dev)
		h.say("of the directory's links", h.stat("d").Nlink)
		in := h.stat(h.input + "/file")
		h.say("of an input", in.Dev == a.Dev, in.Ino == h.listed(h.input, "file"), in.Nlink)
		h.say("of its other name", in.Ino == h.stat(h.input+"/same").Ino)
		mounted, err := os.ReadFile("/proc/self/mountinfo")
		dev := fmt.Sprintf(" %d:%d ", unix.Major(a.Dev), unix.Minor(a.Dev))
		h.say("in the table of mounts", err, strings.Contains(string(mounted), dev))
	},
	"files are mapped": func(h *habit) {
		h.write("a", strings.Repeat("a", 8192))
		f := h.open("a", os.O_RDWR)
		one, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		h.say("shared", err)
		two, err := unix.Mmap(int(h.open("a", os.O_RDONLY).Fd()), 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
		h.say("again", err)
		if err != nil {
			return
		}
		one[0] = 'b'
		h.say("seen in the other", string(two[:2]))
		h.say("seen by read", h.read("a")[:2])
		_, err = f.WriteAt([]byte("c"), 1)
		h.say("write seen", err, string(one[:2]), string(two[:2]))
		h.say("sync", unix.Msync(one, unix.MS_SYNC))
		h.say("rename", os.Rename("a", "b"), string(two[:2]))
		in, err := unix.Mmap(int(h.open(h.input+"/file", os.O_RDONLY).Fd()), 0, 5, unix.PROT_READ, unix.MAP_SHARED)
		h.say("an input", err, string(in))
	},
	"pipes and sockets have names": func(h *habit) {
		h.say("mkfifo", unix.Mkfifo("fifo", 0o600))
		f := h.open("fifo", os.O_RDWR)
		_, err := f.WriteString("through")
		var b [7]byte
		_, rerr := f.Read(b[:])
		h.say("pipe", err, rerr, string(b[:]), h.mode("fifo"))
		h.say("socket", h.socket("sock"), h.mode("sock"))
		h.say("link", os.Link("fifo", "fifo2"), h.stat("fifo").Nlink)
	},
	"files have holes": func(h *habit) {
		f := h.open("sparse", os.O_RDWR|os.O_CREATE)
		_, err := f.WriteAt([]byte("x"), 1<<20)
		h.say("write far", err, h.fstat(f).Size, h.fstat(f).Blocks < 1<<10)
		data, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
		h.say("data", err, data)
		hole, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE)
		h.say("hole", err, hole)
		h.say("fallocate", unix.Fallocate(int(f.Fd()), 0, 0, 4096))
		h.say("punch", unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1))
		h.say("truncate", f.Truncate(1<<30), h.fstat(f).Size)
	},
	"files are copied": func(h *habit) {
		h.write("a", "content")
		src, dst := h.open("a", os.O_RDONLY), h.open("b", os.O_WRONLY|os.O_CREATE)
		n, err := unix.CopyFileRange(int(src.Fd()), nil, int(dst.Fd()), nil, 7, 0)
		h.say("copy_file_range", err, n, h.read("b"))
		h.say("clone", unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
		in := h.open(h.input+"/file", os.O_RDONLY)
		n, err = unix.CopyFileRange(int(in.Fd()), nil, int(dst.Fd()), nil, 5, 0)
		h.say("from an input", err, n)
		n, err = unix.Sendfile(int(h.open("c", os.O_WRONLY|os.O_CREATE).Fd()), int(h.open("a", os.O_RDONLY).Fd()), nil, 7)
		h.say("sendfile", err, n, h.read("c"))
	},
	"permissions matter": func(h *habit) {
		h.write("a", "x")
		h.say("none", os.Chmod("a", 0), errno(h.tryOpen("a", os.O_RDONLY)), errno(h.tryOpen("a", os.O_WRONLY)))
		w := h.open("w", os.O_RDWR|os.O_CREATE)
		h.say("taken from an open file", os.Chmod("w", 0o444), errno(h.tryOpen("w", os.O_WRONLY)))
		_, err := w.WriteString("still")
		h.say("write", err, h.read("w"))
		h.mkdir("d")
		h.write("d/x", "")
		h.say("a directory that is read-only", os.Chmod("d", 0o555), errno(os.Remove("d/x")), errno(h.tryOpen("d/y", os.O_WRONLY|os.O_CREATE)))
		h.say("one that may not be entered", os.Chmod("d", 0o644), h.exists("d/x"))
		h.say("it is given back", unix.Chmod("d", 0o1755), h.mode("d"))
		h.say("chown to oneself", os.Chown("a", os.Getuid(), os.Getgid()))
		h.say("chown to another", errno(os.Chown("a", 0, -1)))
		h.say("write to an input", errno(h.tryOpen(h.input+"/file", os.O_WRONLY)), errno(os.Chmod(h.input+"/file", 0o777)), errno(os.Remove(h.input+"/file")))
	},
	"names are strange": func(h *habit) {
		long := strings.Repeat("n", 255)
		h.write(long, "")
		h.say("255", h.exists(long))
		h.say("256", errno(h.tryOpen(long+"n", os.O_WRONLY|os.O_CREATE)))
		for _, name := range []string{"\xff\xfe", "a\nb", " ", "*", "ü", "Ü", "u\u0308", "-rf", ".wh.x"} {
			h.write(name, name)
			h.say(fmt.Sprintf("%q", name), h.read(name) == name)
		}
		h.say("listed", h.list("."))
		h.say("long symlink", os.Symlink(strings.Repeat("t", 4000), "s"))
		target, err := os.Readlink("s")
		h.say("readlink", err, len(target))
		h.say("too long", errno(os.Symlink(strings.Repeat("t", 5000), "s2")))
		h.say("not followed", errno(h.tryOpen("s", os.O_RDONLY|unix.O_NOFOLLOW)))
		deep := strings.TrimSuffix(strings.Repeat("deep/", 200), "/")
		h.mkdir(deep)
		h.say("deep", h.exists(deep), os.RemoveAll("deep"))
	},
	"directories are listed while they change": func(h *habit) {
		h.mkdir("d")
		for i := range 1000 {
			h.write(fmt.Sprintf("d/%d", i), "")
		}
		d := h.open("d", os.O_RDONLY)
		seen := make(map[string]bool)
		for {
			names, err := d.Readdirnames(100)
			if len(names) == 0 {
				h.say("end", errors.Is(err, io.EOF), len(seen))
				break
			}
			for _, name := range names {
				seen[name] = true
				os.Remove("d/" + name)
			}
		}
		h.say("empty", h.list("d"), os.Remove("d"))
		h.mkdir("d")
		h.say("made again", h.list("d"))
		h.say("full", os.WriteFile("d/x", nil, 0o644), errno(unix.Rmdir("d")))
	},
	"changes are watched": func(h *habit) {
		fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		h.say("inotify", err)
		h.mkdir("d")
		_, err = unix.InotifyAddWatch(fd, "d", unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE)
		h.say("watch", err)
		h.write("d/a", "")
		h.say("rename", os.Rename("d/a", "d/b"), os.Remove("d/b"))
		buf := make([]byte, 4096)
		n, err := unix.Read(fd, buf)
		h.say("events", err, n/(unix.SizeofInotifyEvent+16))
	},
	"programs are written and run": func(h *habit) {
		h.write("script", "#!/bin/sh\necho ran $0\n")
		h.say("chmod", os.Chmod("script", 0o755))
		out, err := h.output("./script")
		h.say("run", err, out)
		program, err := os.ReadFile("/bin/sleep")
		h.say("read a program", err, os.WriteFile("sleep", program, 0o755))
		cmd := h.command("./sleep", "1000000")
		h.say("start it", cmd.Start())
		h.say("write to it", errno(h.tryOpen("sleep", os.O_WRONLY)))
		h.say("replace it", os.WriteFile("new", program, 0o755), os.Rename("new", "sleep"))
		h.say("stop it", cmd.Process.Kill())
		cmd.Wait()
		w := h.open("sleep", os.O_WRONLY)
		h.say("run what is being written", errno(h.command("./sleep", "0").Run()))
		w.Close()
	},
	"data is made durable": func(h *habit) {
		f := h.open("a", os.O_RDWR|os.O_CREATE)
		_, err := f.WriteString("x")
		h.say("file", err, unix.Fsync(int(f.Fd())), unix.Fdatasync(int(f.Fd())))
		h.say("directory", unix.Fsync(int(h.open(".", os.O_RDONLY).Fd())))
		h.say("file system", unix.Syncfs(int(f.Fd())))
	},
	"files are appended to": func(h *habit) {
		one, two := h.open("log", os.O_WRONLY|os.O_CREATE|os.O_APPEND), h.open("log", os.O_WRONLY|os.O_APPEND)
		for range 3 {
			one.WriteString("1")
			two.WriteString("2")
		}
		h.say("content", h.read("log"))
		h.say("only if it is new", errno(h.tryOpen("log", os.O_WRONLY|os.O_CREATE|os.O_EXCL)))
		h.say("emptied", h.tryOpen("log", os.O_WRONLY|os.O_TRUNC), h.read("log"))
	},
	"the kind of file system is asked for": func(h *habit) {
		var st unix.Statfs_t
		h.say("statfs", unix.Statfs(".", &st), st.Type)
	},
	"handles of files are taken": func(h *habit) {
		h.write("a", "")
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "a", 0)
		h.say("name_to_handle_at", err)
	},

	"what was there before is renamed": func(h *habit) {
		h.say("file", os.Rename(h.old+"/file", h.old+"/renamed"), h.read(h.old+"/renamed"))
		h.say("directory", errno(unix.Rename(h.old+"/dir", h.old+"/dir2")))
	},
	"one of two names of what was there before is written to": func(h *habit) {
		ino := h.stat(h.old + "/one").Ino
		h.say("write", os.WriteFile(h.old+"/one", []byte("changed"), 0))
		h.say("the other", h.read(h.old+"/two"))
		h.say("one file", h.stat(h.old+"/one").Ino == h.stat(h.old+"/two").Ino, h.stat(h.old+"/one").Ino == ino)
	},
	"what was there before is in use and then written to": func(h *habit) {
		r := h.open(h.old+"/shared", os.O_RDONLY)
		mapped, err := unix.Mmap(int(r.Fd()), 0, 5, unix.PROT_READ, unix.MAP_SHARED)
		h.say("map", err, string(mapped))
		w := h.open(h.old+"/shared", os.O_WRONLY)
		_, err = w.WriteString("other")
		h.say("write", err)
		h.say("read", h.readFrom(r))
		h.say("mapped", string(mapped))
	},
	"what was there before is removed and made again": func(h *habit) {
		h.say("remove", os.RemoveAll(h.old+"/gone"), h.exists(h.old+"/gone"))
		h.mkdir(h.old + "/gone")
		h.say("make", h.list(h.old+"/gone"))
	},
}

// A habit is one of them at work.
type habit struct {
	name       string
	input, old string
	out        *strings.Builder
	files      []*os.File
}

// posixHabits does all of it and says what happened, a line each.
func posixHabits([]string) error {
	var out strings.Builder
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range habits {
			if !yield(name) {
				return
			}
		}
	}) {
		dir := filepath.Join("/nix/store", strings.ReplaceAll(name, " ", "-"))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chdir(dir); err != nil {
			return err
		}
		h := &habit{name: name, input: "/nix/store/input", old: "/nix/store/old", out: &out}
		habits[name](h)
		for _, f := range h.files {
			f.Close()
		}
	}
	_, err := os.Stdout.WriteString(out.String())
	return err
}

// say tells what came of a step.
func (h *habit) say(what string, results ...any) {
	fmt.Fprintf(h.out, "%s: %s:", h.name, what)
	for _, r := range results {
		if err, ok := r.(error); ok {
			r = errno(err)
		}
		fmt.Fprintf(h.out, " %v", r)
	}
	fmt.Fprintln(h.out)
}

// errno is the number behind an error, whose words may name paths.
func errno(err error) any {
	var n syscall.Errno
	if errors.As(err, &n) {
		return unix.ErrnoName(n)
	}
	return err
}

func (h *habit) must(err error) {
	if err != nil {
		h.say("unexpected", err, err.Error())
	}
}

func (h *habit) mkdir(names ...string) {
	for _, name := range names {
		h.must(os.MkdirAll(name, 0o755))
	}
}

func (h *habit) write(name, content string) {
	h.must(os.WriteFile(name, []byte(content), 0o644))
}

func (h *habit) read(name string) string {
	b, err := os.ReadFile(name)
	h.must(err)
	return string(b)
}

func (h *habit) readFrom(f *os.File) string {
	if f == nil {
		return ""
	}
	b := make([]byte, 100)
	n, _ := f.ReadAt(b, 0)
	return string(b[:n])
}

func (h *habit) open(name string, flags int) *os.File {
	f, err := os.OpenFile(name, flags, 0o644)
	h.must(err)
	if f != nil {
		h.files = append(h.files, f)
	}
	return f
}

func (h *habit) tryOpen(name string, flags int) error {
	f, err := os.OpenFile(name, flags, 0o644)
	if err == nil {
		f.Close()
	}
	return err
}

func (h *habit) stat(name string) (st unix.Stat_t) {
	h.must(unix.Lstat(name, &st))
	return st
}

func (h *habit) fstat(f *os.File) (st unix.Stat_t) {
	h.must(unix.Fstat(int(f.Fd()), &st))
	return st
}

func (h *habit) mode(name string) string { return fmt.Sprintf("%o", h.stat(name).Mode) }

func (h *habit) mtime(name string) time.Time {
	st := h.stat(name)
	return time.Unix(st.Mtim.Unix()).UTC()
}

func (h *habit) ctime(name string) time.Time {
	st := h.stat(name)
	return time.Unix(st.Ctim.Unix()).UTC()
}

func (h *habit) exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func (h *habit) list(name string) []string {
	entries, err := os.ReadDir(name)
	h.must(err)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = fmt.Sprintf("%q", e.Name())
	}
	return names
}
