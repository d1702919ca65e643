package nar

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

var ctx = context.Background()

// describeTree lists a tree with what a store cares about.
func describeTree(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%s %o %d.%d uid %d", rel, st.Mode, st.Mtim.Sec, st.Mtim.Nsec, st.Uid)
		switch {
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", data)
		case d.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			line += " -> " + target
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// tempDir is t.TempDir for trees with read-only directories.
func tempDir(t testing.TB) string {
	dir := t.TempDir()
	t.Cleanup(func() {
		for _, e := range must(os.ReadDir(dir)) {
			if _, err := RemoveTree(ctx, filepath.Join(dir, e.Name())); err != nil {
				t.Error(err)
			}
		}
	})
	return dir
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func dumpString(t *testing.T, path string) string {
	t.Helper()
	var b bytes.Buffer
	if err := Dump(ctx, &b, path); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRestoreIsCanonicalAndExact(t *testing.T) {
	for name, wrap := range readers {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(tempDir(t), "out")
			src := wrap(strings.NewReader(sampleArchive + "rest"))
			if name == "data err" {
				src = wrap(strings.NewReader(sampleArchive))
			}
			stats, err := Restore(ctx, src, root, RestoreOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := Stats{Files: 4, Directories: 3, Symlinks: 1, Bytes: 29, NarSize: int64(len(sampleArchive))}
			if stats != want {
				t.Errorf("stats = %+v, want %+v", stats, want)
			}
			uid := os.Geteuid()
			tree := []string{
				fmt.Sprintf(". 40555 1.0 uid %d", uid),
				fmt.Sprintf("a 40555 1.0 uid %d", uid),
				fmt.Sprintf(`a/b 100555 1.0 uid %d "#!/bin/sh\necho hello\n"`, uid),
				fmt.Sprintf("a.d 40555 1.0 uid %d", uid),
				fmt.Sprintf(`eight 100444 1.0 uid %d "12345678"`, uid),
				fmt.Sprintf(`empty 100444 1.0 uid %d ""`, uid),
				fmt.Sprintf("link 120777 1.0 uid %d -> ../a/b", uid),
				fmt.Sprintf("nonutf8\xff 100555 1.0 uid %d \"\"", uid),
			}
			if d := cmp.Diff(tree, describeTree(t, root)); d != "" {
				t.Error(d)
			}
			if dumpString(t, root) != sampleArchive {
				t.Error("dumping it again gives something else")
			}
			if name != "data err" {
				if rest := must(io.ReadAll(src)); string(rest) != "rest" {
					t.Errorf("rest = %q", rest)
				}
			}
		})
	}
}

func TestRestoreSingleObjects(t *testing.T) {
	for name, in := range map[string]string{
		"file":       archive(fileTokens(false, "contents")),
		"executable": archive(fileTokens(true, "")),
		"large file": archive(fileTokens(true, strings.Repeat("0123456789", 50_000))),
		"symlink":    archive(linkTokens("/nowhere")),
		"directory":  archive(dirTokens()),
	} {
		for _, opts := range []RestoreOptions{{}, {KeepMetadata: true}, {Sync: true}} {
			root := filepath.Join(tempDir(t), "out")
			if _, err := Restore(ctx, strings.NewReader(in), root, opts); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if dumpString(t, root) != in {
				t.Errorf("%s %+v: dumping it again gives something else", name, opts)
			}
			var st unix.Stat_t
			unix.Lstat(root, &st)
			if canonical := isCanonical(&st); canonical == opts.KeepMetadata {
				t.Errorf("%s %+v: canonical = %v, mode %o", name, opts, canonical, st.Mode)
			}
		}
	}
}

// manyObjects has more small files than a crew's batches hold, and large ones
// among them.
func manyObjects() string {
	var dirs []string
	for i := range 30 {
		var files []string
		for j := range 50 {
			size := (i * j * 37) % 5000
			if j == 25 {
				size = smallFile + i - 15
			}
			files = append(files, fmt.Sprintf("file%02d", j), fileTokens(j%3 == 0, strings.Repeat("x", size)))
		}
		files = append(files, "link", linkTokens("file00"), "sub", dirTokens("f", fileTokens(false, "f")))
		dirs = append(dirs, fmt.Sprintf("dir%02d", i), dirTokens(files...))
	}
	return archive(dirTokens(dirs...))
}

func TestRestoreManyFiles(t *testing.T) {
	in := manyObjects()
	root := filepath.Join(tempDir(t), "out")
	stats, err := Restore(ctx, bufio.NewReader(strings.NewReader(in)), root, RestoreOptions{Sync: true})
	if err != nil {
		t.Fatal(err)
	}
	if stats.Files != 30*51 || stats.Symlinks != 30 || stats.Directories != 61 {
		t.Errorf("stats = %+v", stats)
	}
	if dumpString(t, root) != in {
		t.Error("dumping it again gives something else")
	}
	for _, line := range describeTree(t, root) {
		if !strings.Contains(line, " 1.0 uid ") || !strings.Contains(line, "555 ") && !strings.Contains(line, "444 ") && !strings.Contains(line, "120777") {
			t.Fatalf("not canonical: %.100s", line)
		}
	}
}

func TestRestoreTruncated(t *testing.T) {
	in := manyObjects()
	for _, n := range []int{0, len(in) / 3, len(in) - 1} {
		root := filepath.Join(tempDir(t), "out")
		_, err := Restore(ctx, strings.NewReader(in[:n]), root, RestoreOptions{})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for n := 0; n < len(sampleArchive); n += 20 {
		root := filepath.Join(tempDir(t), "out")
		_, err := Restore(ctx, strings.NewReader(sampleArchive[:n]), root, RestoreOptions{})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func TestRestoreWithLyingSizeMakesNoLargeFile(t *testing.T) {
	in := str(magicWord, "(", "type", "regular", "contents") + "\x00\x00\x00\x00\x00\x00\x00\x7f" + "only this"
	root := filepath.Join(tempDir(t), "out")
	_, err := Restore(ctx, strings.NewReader(in), root, RestoreOptions{})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(root, &st); err != nil || st.Size > 9 || st.Blocks > 64 {
		t.Errorf("size %d, blocks %d, %v", st.Size, st.Blocks, err)
	}
}

// TestRestoreEscapes holds attacks: archives, and what lies in wait where they
// are unpacked. Nothing may appear or change in the directory "victim".
func TestRestoreEscapes(t *testing.T) {
	payload := fileTokens(true, "payload")
	for _, tt := range []struct {
		name, in string
		prepare  func(parent string)
	}{
		{"symlink then write through it", archive(dirTokens("a", linkTokens("../victim"), "a", dirTokens("x", payload))), nil},
		{"symlink then write through it, names apart", archive(dirTokens("a", linkTokens("../victim"), "a/x", payload)), nil},
		{"directory replaced by symlink", archive(dirTokens("a", dirTokens(), "a", linkTokens("../victim"))), nil},
		{"dot dot", archive(dirTokens("..", dirTokens("victim", dirTokens("x", payload)))), nil},
		{"dot dot in a name", archive(dirTokens("../victim/x", payload)), nil},
		{"absolute name", archive(dirTokens("/tmp/victim-of-strata-test", payload)), nil},
		{"dot", archive(dirTokens(".", dirTokens("x", payload))), nil},
		{"NUL hides the rest", archive(dirTokens("..\x00x", dirTokens("victim", payload))), nil},
		{"root is a symlink to a directory already", archive(dirTokens("x", payload)), func(parent string) {
			os.Symlink("victim", filepath.Join(parent, "out"))
		}},
		{"root is a symlink to a file already", archive(fileTokens(false, "overwritten")), func(parent string) {
			os.Symlink("victim/file", filepath.Join(parent, "out"))
		}},
		{"root is a dangling symlink already", archive(fileTokens(false, "new")), func(parent string) {
			os.Symlink("victim/x", filepath.Join(parent, "out"))
		}},
		{"root is a hard link already", archive(fileTokens(false, "overwritten")), func(parent string) {
			os.Link(filepath.Join(parent, "victim/file"), filepath.Join(parent, "out"))
		}},
		{"root is a directory already", archive(dirTokens("x", payload)), func(parent string) {
			os.Mkdir(filepath.Join(parent, "out"), 0o755)
			os.Symlink("../victim/x", filepath.Join(parent, "out/x"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := tempDir(t)
			victim := filepath.Join(parent, "victim")
			os.Mkdir(victim, 0o755)
			os.WriteFile(filepath.Join(victim, "file"), []byte("precious"), 0o644)
			if tt.prepare != nil {
				tt.prepare(parent)
			}
			before := describeTree(t, victim)
			if _, err := Restore(ctx, strings.NewReader(tt.in), filepath.Join(parent, "out"), RestoreOptions{}); err == nil {
				t.Error("no error")
			}
			if d := cmp.Diff(before, describeTree(t, victim)); d != "" {
				t.Error(d)
			}
			for _, e := range must(os.ReadDir(parent)) {
				if e.Name() != "victim" && e.Name() != "out" {
					t.Errorf("%s appeared", e.Name())
				}
			}
		})
	}
}

// A symlink that leads outside is legal as long as nothing follows it.
func TestRestoreDoesNotFollowItsOwnSymlinks(t *testing.T) {
	parent := tempDir(t)
	victim := filepath.Join(parent, "victim")
	os.Mkdir(victim, 0o700)
	in := archive(dirTokens("a", linkTokens("../victim"), "b", linkTokens(victim), "c", dirTokens("d", linkTokens("/etc/passwd"))))
	if _, err := Restore(ctx, strings.NewReader(in), filepath.Join(parent, "out"), RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	unix.Lstat(victim, &st)
	if st.Mode&0o777 != 0o700 || st.Mtim.Sec == 1 {
		t.Errorf("the symlink's target was changed: mode %o, mtime %d", st.Mode, st.Mtim.Sec)
	}
	if len(must(os.ReadDir(victim))) != 0 {
		t.Error("something appeared in the symlink's target")
	}
}

// While an archive is unpacked, somebody replaces a directory by a symlink.
func TestRestoreSurvivesRenamedDirectory(t *testing.T) {
	parent := tempDir(t)
	victim, out := filepath.Join(parent, "victim"), filepath.Join(parent, "out")
	os.Mkdir(victim, 0o755)
	in := archive(dirTokens("d", dirTokens("big", fileTokens(false, strings.Repeat("x", 1<<20)), "small", fileTokens(false, "s"))))
	half := strings.Index(in, "xxxx") + 1<<19
	src := io.MultiReader(strings.NewReader(in[:half]), readerFunc(func() {
		if err := os.Rename(filepath.Join(out, "d"), filepath.Join(out, "moved")); err != nil {
			t.Error(err)
		}
		os.Symlink(victim, filepath.Join(out, "d"))
	}), strings.NewReader(in[half:]))
	if _, err := Restore(ctx, src, out, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := must(os.ReadDir(victim)); len(got) != 0 {
		t.Errorf("%v escaped", got)
	}
	if _, err := os.Lstat(filepath.Join(out, "moved/small")); err != nil {
		t.Error(err)
	}
}

// readerFunc does something when it is the stream's turn, and is empty.
type readerFunc func()

func (f readerFunc) Read([]byte) (int, error) { f(); return 0, io.EOF }

func TestRestoreRefusesNames(t *testing.T) {
	dir := tempDir(t)
	parent := must(os.Open(dir))
	defer parent.Close()
	for _, name := range []string{"", ".", "..", "a/b", "/x", "a\x00b"} {
		if _, err := RestoreAt(ctx, strings.NewReader(sampleArchive), parent, name, RestoreOptions{}); err == nil {
			t.Errorf("%q: no error", name)
		}
	}
	if _, err := RestoreAt(ctx, strings.NewReader(sampleArchive), parent, "ok", RestoreOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := Restore(ctx, strings.NewReader(sampleArchive), dir+"/ok", RestoreOptions{}); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), dir+"/ok") {
		t.Errorf("existing: %v", err)
	}
	if _, err := Restore(ctx, strings.NewReader(sampleArchive), dir+"/absent/ok", RestoreOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no parent: %v", err)
	}
}

func TestRestoreIgnoresUmask(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	root := filepath.Join(tempDir(t), "out")
	if _, err := Restore(ctx, strings.NewReader(manyObjects()), root, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, line := range describeTree(t, root) {
		if strings.Contains(line, "400 1.0") || strings.Contains(line, "500 1.0") {
			t.Fatalf("%.100s", line)
		}
	}
	root += "2"
	if _, err := Restore(ctx, strings.NewReader(sampleArchive), root, RestoreOptions{KeepMetadata: true}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint32{"": 0o700, "a/b": 0o700, "empty": 0o600} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(root, path), &st); err != nil || st.Mode&0o777 != want {
			t.Errorf("%q: mode %o, want %o (%v)", path, st.Mode&0o777, want, err)
		}
	}
}

// A default ACL: user::rwx, user:12345:rwx, group::rwx, mask::rwx, other::rwx.
var defaultACL = []byte("\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\x39\x30\x00\x00" + "\x04\x00\x07\x00\xff\xff\xff\xff" +
	"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x07\x00\xff\xff\xff\xff")

func xattrsOf(t *testing.T, path string) []string {
	t.Helper()
	names, err := listXattrs(path, unix.Llistxattr)
	if err != nil {
		t.Fatal(err)
	}
	var rest []string
	for _, n := range names {
		if n != "security.selinux" {
			rest = append(rest, n)
		}
	}
	return rest
}

func TestRestoreInheritsNoACL(t *testing.T) {
	dir := tempDir(t)
	if err := unix.Setxattr(dir, "system.posix_acl_default", defaultACL, 0); err != nil {
		testenv.Skip(t, "no ACLs on the file system of temporary files")
	}
	for name, in := range map[string]string{"tree": sampleArchive, "file": archive(fileTokens(false, "x"))} {
		root := filepath.Join(dir, name)
		if _, err := Restore(ctx, strings.NewReader(in), root, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if got := xattrsOf(t, path); got != nil {
				t.Errorf("%s has %q", path, got)
			}
			var st unix.Stat_t
			unix.Lstat(path, &st)
			if !isCanonical(&st) {
				t.Errorf("%s has mode %o", path, st.Mode)
			}
			return nil
		})
	}
}

func TestRestoreStopsWhenCancelled(t *testing.T) {
	why := errors.New("why")
	for name, in := range map[string]string{
		"small files": manyObjects(),
		"large file":  archive(fileTokens(false, strings.Repeat("x", 8<<20))),
	} {
		ctx, cancel := context.WithCancelCause(ctx)
		src := io.MultiReader(strings.NewReader(in[:len(in)/2]), readerFunc(func() { cancel(why) }), strings.NewReader(in[len(in)/2:]))
		if _, err := Restore(ctx, src, filepath.Join(tempDir(t), "out"), RestoreOptions{}); !errors.Is(err, why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRestorePassesOnReadErrors(t *testing.T) {
	boom := errors.New("boom")
	in := manyObjects()
	src := io.MultiReader(strings.NewReader(in[:len(in)/2]), iotest.ErrReader(boom))
	if _, err := Restore(ctx, src, filepath.Join(tempDir(t), "out"), RestoreOptions{}); !errors.Is(err, boom) {
		t.Error(err)
	}
}

func TestRestoreLeaksNoDescriptors(t *testing.T) {
	count := func() int { return len(must(os.ReadDir("/proc/self/fd"))) }
	in := manyObjects()
	before := count()
	for _, in := range []string{in, in[:len(in)/2], in[:len(in)-8], archive(dirTokens("b", dirTokens(), "a", dirTokens()))} {
		Restore(ctx, strings.NewReader(in), filepath.Join(tempDir(t), "out"), RestoreOptions{})
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func FuzzRestore(f *testing.F) {
	f.Add([]byte(sampleArchive))
	f.Add([]byte(archive(dirTokens("a", linkTokens("../victim"), "a", dirTokens("x", fileTokens(false, ""))))))
	f.Add([]byte(archive(dirTokens("..", linkTokens("/")))))
	f.Fuzz(func(t *testing.T, in []byte) {
		if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
			t.Setenv("TMPDIR", "/dev/shm") // a disk would take most of the time
		}
		parent := tempDir(t)
		victim := filepath.Join(parent, "victim")
		os.Mkdir(victim, 0o755)
		before := describeTree(t, victim)
		root := filepath.Join(parent, "out")
		stats, err := Restore(ctx, bytes.NewReader(in), root, RestoreOptions{})
		if d := cmp.Diff(before, describeTree(t, victim)); d != "" {
			t.Error(d)
		}
		if err == nil && dumpString(t, root) != string(in[:stats.NarSize]) {
			t.Error("dumping it again gives something else")
		}
		for _, e := range must(os.ReadDir(parent)) {
			if e.Name() != "victim" && e.Name() != "out" {
				t.Errorf("%s appeared", e.Name())
			}
		}
	})
}
