package fusefs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// makeObjects makes a directory with objects of all kinds, in memory. The test must be
// isolated.
func makeObjects(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(testenv.Scratch(t), "objects")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("objects", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	write := func(name, content string, mode fs.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("tree/bin/hello", "#!/bin/sh\necho hello\n", 0o555)
	write("tree/share/empty", "", 0o444)
	write("tree/share/large", strings.Repeat("0123456789abcdef", 1<<17), 0o444)
	write("tree/share/odd \xff\n name", "odd", 0o444)
	for i := range 3000 {
		write(fmt.Sprintf("tree/many/%d", i*7919%3000), "", 0o444)
	}
	write("file", "an object that is a file", 0o444)
	for link, target := range map[string]string{"link": "tree/bin", "tree/share/link": "../bin/hello", "tree/share/dangling": "/nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "tree/nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
	canonical(t, dir)
	return dir
}

// canonical gives everything in dir the metadata of a store.
func canonical(t testing.TB, dir string) {
	t.Helper()
	one := unix.Timespec{Sec: 1}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if err := os.Chmod(path, 0o555); err != nil {
				return err
			}
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{one, one}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMountShowsWhatIsThere(t *testing.T) {
	testenv.FUSE(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	objects := makeObjects(t)
	s := serve(t, objects)
	for range 2 { // cold, and from what the kernel keeps
		sameTrees(t, objects, s.at)
	}
	if _, err := os.Lstat(filepath.Join(s.at, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name that is not there: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(s.at, "tree/bin/absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name that is not in an object: %v", err)
	}
}

// sameTrees compares everything that can be seen of two directories.
func sameTrees(t *testing.T, want, got string) {
	t.Helper()
	var names, others []string
	collect := func(root string, list *[]string) {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(root, path)
			*list = append(*list, rel)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	collect(want, &names)
	collect(got, &others)
	if strings.Join(names, "\x00") != strings.Join(others, "\x00") {
		t.Fatalf("%d names are there, and %d show", len(names), len(others))
	}
	for _, name := range names[1:] {
		sameFile(t, filepath.Join(want, name), filepath.Join(got, name))
	}
}

func sameFile(t *testing.T, want, got string) {
	t.Helper()
	var a, b unix.Stat_t
	if err := errors.Join(unix.Lstat(want, &a), unix.Lstat(got, &b)); err != nil {
		t.Fatal(err)
	}
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim || a.Nlink != b.Nlink {
		t.Errorf("%s: %+v, and %+v shows", want, a, b)
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		x, err := os.ReadFile(want)
		y, err2 := os.ReadFile(got)
		if err := errors.Join(err, err2); err != nil || string(x) != string(y) || a.Size != b.Size {
			t.Errorf("%s: other contents show (%v)", want, err)
		}
	case unix.S_IFLNK:
		x, err := os.Readlink(want)
		y, err2 := os.Readlink(got)
		if err := errors.Join(err, err2); err != nil || x != y || a.Size != b.Size {
			t.Errorf("%s: %q, and %q shows (%v)", want, x, y, err)
		}
	}
}

func TestProgramRunsFromMount(t *testing.T) {
	testenv.FUSE(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	s := serve(t, makeObjects(t))
	out, err := exec.Command(filepath.Join(s.at, "link/hello")).Output()
	if err != nil || string(out) != "hello\n" {
		t.Errorf("%q, %v", out, err)
	}
	if err := os.WriteFile(filepath.Join(s.at, "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v", err)
	}
}

// A signal ends the wait of a program for something that does not come.
func TestWaitEndsBySignal(t *testing.T) {
	testenv.FUSE(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	s := serve(t, makeObjects(t))
	cmd := exec.Command("/bin/cat", filepath.Join(s.at, "slow"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitAsleep(t, cmd.Process.Pid)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
}

// A signal that a program takes in its stride does not make a file be missing.
func TestWaitGoesOnDespiteOtherSignals(t *testing.T) {
	testenv.FUSE(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	objects := makeObjects(t)
	s := serve(t, objects)
	cmd := exec.Command(testenv.Tool(t, "bash"), "-c", `trap : WINCH CHLD; test -e "$0"`, filepath.Join(s.at, "late"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		waitAsleep(t, cmd.Process.Pid)
		for _, sig := range []syscall.Signal{syscall.SIGWINCH, syscall.SIGCHLD} {
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Millisecond) // it would have been given up by then
	}
	if err := os.WriteFile(filepath.Join(objects, "late"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// waitAsleep waits until a process waits for an answer of the mount.
func waitAsleep(t *testing.T, pid int) {
	t.Helper()
	for range 10000 {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "fuse") || strings.Contains(string(data), "request_wait") {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it never waited")
}

// The server is killed again and again while programs read, and a new one goes on. The programs
// are processes of their own: one that starts a server must not have files of its mount
// open, whose closing by its child waits for the server.
func TestServerIsReplaced(t *testing.T) {
	testenv.FUSE(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	objects := makeObjects(t)
	s := serve(t, objects)
	var readers []*exec.Cmd
	for range 3 {
		cmd := exec.Command("/proc/self/exe", filepath.Join(objects, "tree/share/large"))
		cmd.Env = append(os.Environ(), readVar+"="+filepath.Join(s.at, "tree/share/large"))
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, cmd)
	}
	for range 20 {
		time.Sleep(20 * time.Millisecond) // the readers do something meanwhile; nothing depends on how much
		s.kill()
		s.start(true)
	}
	for _, cmd := range readers {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	sameTrees(t, objects, s.at)
}

// A server that is told to end does so by itself, whatever it is doing, and nobody notices but by waiting.
func TestServerGivesWay(t *testing.T) {
	testenv.FUSE(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	objects := makeObjects(t)
	s := serve(t, objects)
	late := exec.Command("cat", filepath.Join(s.at, "late")) // it waits for an answer
	late.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	late.Stdout, late.Stderr = &said, &said
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		// Each time the kernel asks anew for what is not there, and so the server is at work.
		if out, err := exec.Command("cat", filepath.Join(s.at, "nothing")).CombinedOutput(); err == nil || !strings.Contains(string(out), "No such file") {
			t.Errorf("%q, %v", out, err)
		}
		ended := make(chan error, 1)
		server := s.server
		go func() { ended <- server.Wait() }()
		if err := server.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("after %d others: %v", n, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
		s.start(true)
	}
	if err := os.WriteFile(filepath.Join(objects, "late"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := late.Wait(); err != nil || said.String() != "an object that is a file" {
		t.Errorf("%v: %s", err, said.String())
	}
}

// readAgain reads a file, past what the kernel keeps of it, until SIGTERM, and compares it with
// another one.
func readAgain(path, other string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	want, err := os.ReadFile(other)
	for err == nil && ctx.Err() == nil {
		var f *os.File
		if f, err = os.Open(path); err != nil {
			break
		}
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		var got []byte
		got, err = io.ReadAll(f)
		_ = f.Close()
		if err == nil && !bytes.Equal(got, want) {
			err = errors.New("other contents")
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
