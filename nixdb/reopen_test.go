package nixdb_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixdb"
)

// deletedFiles lists what this process has open of what was deleted below dir.
func deletedFiles(t *testing.T, dir string) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, fd := range fds {
		target, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if strings.HasPrefix(target, dir) && strings.HasSuffix(target, " (deleted)") {
			list = append(list, target)
		}
	}
	return list
}

func TestStoreIsDeletedAndMadeAnew(t *testing.T) {
	db, dbDir := newDB(t, info("old"))
	if n := len(allPaths(t, db)); n != 1 { // a reader is open as well
		t.Fatal(n)
	}
	for range 3 {
		if err := os.RemoveAll(filepath.Dir(dbDir)); err != nil {
			t.Fatal(err)
		}
		if n := len(allPaths(t, db)); n != 0 {
			t.Errorf("%d paths in a database that was just made", n)
		}
		if left := deletedFiles(t, dbDir); left != nil {
			t.Errorf("still open: %v", left)
		}
		register(t, db, info("new"))
		healthy(t, db)
	}
	// The big lock was taken anew, too.
	if out, err := os.ReadFile("/proc/locks"); err == nil && !strings.Contains(string(out), inode(t, filepath.Join(dbDir, "big-lock"))) {
		t.Error("the big lock is not held")
	}
}

func TestAnotherDatabaseIsPutInPlace(t *testing.T) {
	db, dbDir := newDB(t, info("old"))
	reader := open(t, dbDir, nixdb.Options{ReadOnly: true})
	allPaths(t, reader)
	other := closedDB(t)
	if err := os.Rename(dbDir, dbDir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, dbDir); err != nil {
		t.Fatal(err)
	}
	if n := len(allPaths(t, db)); n != 2 {
		t.Errorf("%d paths", n)
	}
	if n := len(allPaths(t, reader)); n != 2 {
		t.Errorf("%d paths, read-only", n)
	}
	register(t, db, info("new"))
	if n := len(allPaths(t, open(t, dbDir+".old", nixdb.Options{}))); n != 1 {
		t.Errorf("%d paths in the old one", n)
	}
	healthy(t, db)
}

// Restoring a backup with cp keeps the inode of the database.
func TestBackupIsCopiedOverTheDatabase(t *testing.T) {
	backup := closedDB(t)
	db, dbDir := newDB(t, info("lost"))
	if n := len(allPaths(t, db)); n != 1 { // a reader is open as well
		t.Fatal(n)
	}
	file := filepath.Join(dbDir, "db.sqlite")
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(file + suffix); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", filepath.Join(backup, "db.sqlite"), file).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	register(t, db, info("new", "lib"))
	if n := len(allPaths(t, db)); n != 3 {
		t.Errorf("%d paths", n)
	}
	if err := db.Release(); err != nil {
		t.Fatal(err)
	}
	if n := len(allPaths(t, open(t, dbDir, nixdb.Options{ReadOnly: true}))); n != 3 {
		t.Errorf("%d paths in the file", n)
	}
	healthy(t, db)
}

func TestListingNoticesAnotherDatabase(t *testing.T) {
	db, dbDir := newDB(t)
	if _, err := db.Load(t.Context(), synthetic(3000, false)); err != nil {
		t.Fatal(err)
	}
	var last error
	n := 0
	for _, err := range db.AllPaths(t.Context()) {
		if n++; n == 10 {
			if err := os.RemoveAll(dbDir); err != nil {
				t.Fatal(err)
			}
		}
		last = err
	}
	if !errors.Is(last, nixdb.ErrGone) {
		t.Errorf("after %d: %v", n, last)
	}
}

func TestDatabaseFileIsMissing(t *testing.T) {
	db, dbDir := newDB(t, info("a"))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(dbDir, "db.sqlite"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.ValidPaths(t.Context(), paths("a")); !errors.Is(err, nixdb.ErrGone) {
		t.Errorf("got %v", err)
	}
	if _, err := tryOpen(t, dbDir, nixdb.Options{}); !errors.Is(err, nixdb.ErrGone) {
		t.Errorf("opening: %v", err)
	}
	// And works again with the rest out of the way.
	if err := os.Remove(filepath.Join(dbDir, "schema")); err != nil {
		t.Fatal(err)
	}
	if n := len(allPaths(t, db)); n != 0 {
		t.Errorf("%d paths", n)
	}
}

func TestDirectoryCannotBeMadeAnew(t *testing.T) {
	db, dbDir := newDB(t, info("a"))
	parent := filepath.Dir(dbDir)
	if err := os.RemoveAll(parent); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(parent, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ValidPaths(t.Context(), paths("a")); !errors.Is(err, nixdb.ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestIdleConnectionsAreGivenBack(t *testing.T) {
	dbDir := filepath.Join(testenv.Scratch(t), "db")
	synctest.Test(t, func(t *testing.T) {
		db := open(t, dbDir, nixdb.Options{})
		register(t, db, info("a"))
		log := filepath.Join(dbDir, "db.sqlite-wal")
		if fi, err := os.Stat(log); err != nil || fi.Size() == 0 {
			t.Fatalf("no log to be written back: %v", err)
		}
		time.Sleep(20 * time.Second) // of the bubble
		synctest.Wait()
		if fi, err := os.Stat(log); err != nil || fi.Size() != 0 {
			t.Errorf("the log is not empty: %v", err)
		}
		if n := len(allPaths(t, db)); n != 1 {
			t.Errorf("%d paths", n)
		}
	})
}

func TestOverwrittenFileIsReadAnew(t *testing.T) {
	dbDir := closedDB(t)
	reader := open(t, dbDir, nixdb.Options{ReadOnly: true})
	if n := len(allPaths(t, reader)); n != 2 {
		t.Fatal(n)
	}
	b, err := os.ReadFile(filepath.Join(closedDB(t), "db.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dbDir, "db.sqlite"), b[:5000], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.ValidPaths(t.Context(), paths("lib")); !errors.Is(err, nixdb.ErrCorrupt) {
		t.Errorf("half of a database: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dbDir, "db.sqlite"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if n := len(allPaths(t, reader)); n != 2 {
		t.Errorf("%d paths", n)
	}
}

// inode is the number of a file as /proc/locks shows it.
func inode(t *testing.T, name string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(":%d ", st.Ino)
}
