package nixdb_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
)

// fileFacts is everything about a file that reading must not change.
type fileFacts struct {
	Mode    fs.FileMode
	Mtime   time.Time
	Content string
}

// snapshot takes the facts of all files below dir. Of a database that is open in
// this process it must not take the content: closing the file would drop the locks.
func snapshot(t *testing.T, dir string, content bool) map[string]fileFacts {
	t.Helper()
	facts := map[string]fileFacts{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		f := fileFacts{Mode: fi.Mode(), Mtime: fi.ModTime()}
		if content && !d.IsDir() {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			f.Content = string(b)
		}
		facts[name] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// closedDB makes a database that nobody has open, with two paths in it.
func closedDB(t *testing.T) string {
	t.Helper()
	dbDir := filepath.Join(t.TempDir(), "db")
	db, err := nixdb.Open(t.Context(), dbDir, nixdb.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	register(t, db, info("lib"), info("tool", "lib"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dbDir
}

// useReadOnly asks everything of a database, and wants two paths.
func useReadOnly(t *testing.T, dbDir string) {
	t.Helper()
	db := open(t, dbDir, nixdb.Options{ReadOnly: true})
	if n := len(allPaths(t, db)); n != 2 {
		t.Errorf("%d paths", n)
	}
	infos, err := db.PathInfos(t.Context(), paths("tool"))
	if err != nil || infos[0] == nil || len(infos[0].References) != 1 {
		t.Errorf("%v: %v", infos, err)
	}
	if _, err := db.Graph(t.Context()); err != nil {
		t.Error(err)
	}
	healthy(t, db)
	err = db.Register(t.Context(), regs(info("more")))
	if !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("registering: %v", err)
	}
	if _, err = db.Load(t.Context(), synthetic(300, false)); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("loading: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestReadOnlyChangesNothing(t *testing.T) {
	dbDir := closedDB(t)
	for _, without := range []string{"nothing", "the files of the log"} {
		if without != "nothing" {
			for _, suffix := range []string{"-wal", "-shm"} {
				if err := os.Remove(filepath.Join(dbDir, "db.sqlite"+suffix)); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := snapshot(t, dbDir, true)
		useReadOnly(t, dbDir)
		if d := cmp.Diff(before, snapshot(t, dbDir, true)); d != "" {
			t.Errorf("without %s: %s", without, d)
		}
	}
}

func TestReadOnlyDirectoryOfAnotherUser(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	dbDir := closedDB(t)
	if err := os.Chmod(dbDir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dbDir, 0o755) })
	useReadOnly(t, dbDir)
	if _, err := tryOpen(t, dbDir, nixdb.Options{}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("opened for writing: %v", err)
	}
}

func TestReadOnlyDirectoryOfAnotherUserWithLog(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	db, dbDir := newDB(t, info("lib"), info("tool", "lib"))
	allPaths(t, db)
	copied := filepath.Join(t.TempDir(), "copied")
	copyDir(t, dbDir, copied)
	for mode, names := range map[fs.FileMode][]string{0o444: {"db.sqlite", "db.sqlite-wal", "db.sqlite-shm"}, 0o555: {"."}} {
		for _, name := range names {
			if err := os.Chmod(filepath.Join(copied, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { os.Chmod(copied, 0o755) })
	before := snapshot(t, copied, false)
	useReadOnly(t, copied)
	if d := cmp.Diff(before, snapshot(t, copied, false)); d != "" {
		t.Error(d)
	}
}

func TestReadOnlyMedium(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	dbDir := closedDB(t)
	readOnly(t, dbDir)
	useReadOnly(t, dbDir)
	if _, err := tryOpen(t, dbDir, nixdb.Options{}); !errors.Is(err, unix.EROFS) {
		t.Errorf("opened for writing: %v", err)
	}
}

// readOnly makes a directory read-only for everybody until the end of the test.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

func TestReadOnlySeesWhatOthersChange(t *testing.T) {
	dbDir := closedDB(t)
	reader := open(t, dbDir, nixdb.Options{ReadOnly: true})
	expect := func(when string, names ...string) {
		t.Helper()
		valid, err := reader.ValidPaths(t.Context(), paths("lib", "tool", "new", "newer"))
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if !slices.Equal(valid, paths(names...)) {
			t.Errorf("%s: %v", when, valid)
		}
	}
	expect("at first", "lib", "tool")
	writer := open(t, dbDir, nixdb.Options{})
	expect("while the log is empty", "lib", "tool")
	register(t, writer, info("new"))
	expect("what is in the log", "lib", "tool", "new")
	register(t, writer, info("newer"))
	expect("what came into the log", "lib", "tool", "new", "newer")
	before := snapshot(t, dbDir, false)
	expect("once more", "lib", "tool", "new", "newer")
	if d := cmp.Diff(before, snapshot(t, dbDir, false)); d != "" {
		t.Errorf("reading with the log: %s", d)
	}
	if err := writer.Release(); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dbDir, "db.sqlite-wal")); err != nil || fi.Size() != 0 {
		t.Errorf("the reader kept the log from being written back: %v", err)
	}
	expect("when the log is written back", "lib", "tool", "new", "newer")
	if err := writer.Invalidate(t.Context(), paths("new", "tool")); err != nil {
		t.Fatal(err)
	}
	if err := writer.Release(); err != nil {
		t.Fatal(err)
	}
	expect("after a deletion", "lib", "newer")
}

// copyDir copies a database that may be open. Another process must do that; see
// snapshot.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-r", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// Files as a snapshot of a running system has them.
func TestLogThatWasNotWrittenBack(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	dbDir := closedDB(t)
	db := open(t, dbDir, nixdb.Options{})
	register(t, db, info("in-the-log"))
	image := filepath.Join(t.TempDir(), "image")
	copyDir(t, dbDir, image)
	readOnly(t, image)
	before := snapshot(t, image, true)
	reader := open(t, image, nixdb.Options{ReadOnly: true})
	if n := len(allPaths(t, reader)); n != 3 {
		t.Errorf("%d paths with the log", n)
	}
	if d := cmp.Diff(before, snapshot(t, image, true)); d != "" {
		t.Error(d)
	}

	partial := filepath.Join(t.TempDir(), "partial")
	copyDir(t, dbDir, partial)
	if err := os.Remove(filepath.Join(partial, "db.sqlite-shm")); err != nil {
		t.Fatal(err)
	}
	before = snapshot(t, partial, true)
	var log *nixdb.LogError
	if _, err := tryOpen(t, partial, nixdb.Options{ReadOnly: true}); !errors.As(err, &log) || log.File != filepath.Join(partial, "db.sqlite-wal") {
		t.Errorf("without the index of the log: %v", err)
	}
	if d := cmp.Diff(before, snapshot(t, partial, true)); d != "" {
		t.Error(d)
	}
	// What the error says is what helps.
	repaired := open(t, partial, nixdb.Options{})
	if n := len(allPaths(t, repaired)); n != 3 {
		t.Errorf("%d paths after opening it for writing", n)
	}
	if err := repaired.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(allPaths(t, open(t, partial, nixdb.Options{ReadOnly: true}))); n != 3 {
		t.Errorf("%d paths at the end", n)
	}
}

func TestReadOnlyNeedsADatabase(t *testing.T) {
	dbDir := t.TempDir()
	for name, version := range map[string]string{"none": "", "old": "9", "new": "11", "corrupt": "ten"} {
		if version != "" {
			if err := os.WriteFile(filepath.Join(dbDir, "schema"), []byte(version), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dbDir, "db.sqlite"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		before := snapshot(t, dbDir, true)
		_, err := tryOpen(t, dbDir, nixdb.Options{ReadOnly: true})
		var schema *nixdb.SchemaError
		if !errors.As(err, &schema) {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(before, snapshot(t, dbDir, true)); d != "" {
			t.Error(d)
		}
	}
}
