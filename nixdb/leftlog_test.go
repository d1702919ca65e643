package nixdb_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nixdb"
)

// Whatever a killed process, or a power cut, left of a log, who may not write gets to
// know what there is, or that he has to write, and does not wait for anybody.
func TestLogsThatAKilledProcessLeaves(t *testing.T) {
	db, dbDir := newDB(t, info("before"))
	if err := db.Release(); err != nil {
		t.Fatal(err)
	}
	register(t, db, info("in-the-log"))
	whole := filepath.Join(t.TempDir(), "whole")
	copyDir(t, dbDir, whole)
	log, err := os.ReadFile(filepath.Join(whole, "db.sqlite-wal"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(whole, "db.sqlite-shm"))
	if err != nil {
		t.Fatal(err)
	}
	nonsense := make([]byte, len(log))
	copy(nonsense, "this was never a header of anything")
	damaged := append([]byte(nil), log...)
	damaged[30] ^= 1
	for _, c := range []struct {
		name  string
		log   []byte
		paths int // 0: an error
	}{
		{"all of it", log, 2},
		{"just its header", log[:32], 1},
		{"a part of the header", log[:13], 1},
		{"a part of the first page", log[:32+24+100], 1},
		{"all but the end", log[:len(log)-1], 1},
		{"zeros", make([]byte, len(log)), 0},
		{"nonsense", nonsense, 0},
		{"a header whose sum is wrong", damaged, 1},
	} {
		for shm, content := range map[string][]byte{"as it was": index, "of zeros": make([]byte, 32768), "torn": index[:100], "empty": {}} {
			left := filepath.Join(t.TempDir(), "left")
			copyDir(t, whole, left)
			for name, b := range map[string][]byte{"db.sqlite-wal": c.log, "db.sqlite-shm": content} {
				if err := os.WriteFile(filepath.Join(left, name), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			r, err := nixdb.Open(ctx, left, nixdb.Options{Dir: dir, ReadOnly: true})
			cancel()
			var refused *nixdb.LogError
			if c.paths == 0 {
				if !errors.As(err, &refused) {
					t.Errorf("%s, with an index %s: %v", c.name, shm, err)
				}
			} else if err != nil {
				t.Errorf("%s, with an index %s: %v", c.name, shm, err)
			} else if n := len(allPaths(t, r)); n != c.paths {
				t.Errorf("%s, with an index %s: %d paths", c.name, shm, n)
			}
			if err == nil {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			// What an owner finds is the same.
			if n := len(allPaths(t, open(t, left, nixdb.Options{}))); n != max(c.paths, 1) {
				t.Errorf("%s, with an index %s: the owner has %d paths", c.name, shm, n)
			}
		}
	}
}

// A process that is stopped while it repairs the index of the log keeps readers out;
// they say so after a while.
func TestReadersGiveUp(t *testing.T) {
	nixdb.SetPatience(t, 200*time.Millisecond)
	db, dbDir := newDB(t, info("before"))
	left := filepath.Join(t.TempDir(), "left")
	copyDir(t, dbDir, left)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// The locks of another process, with an index that it has not filled in yet.
	shm, err := os.OpenFile(filepath.Join(left, "db.sqlite-shm"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer shm.Close()
	if _, err := shm.WriteAt(make([]byte, 136), 0); err != nil {
		t.Fatal(err)
	}
	lock := func(kind int16, start, n int64) {
		t.Helper()
		if err := unix.FcntlFlock(shm.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: start, Len: n}); err != nil {
			t.Fatal(err)
		}
	}
	lock(unix.F_RDLCK, 128, 1) // it is there
	lock(unix.F_WRLCK, 120, 3) // it writes, and repairs
	_, err = nixdb.Open(t.Context(), left, nixdb.Options{Dir: dir, ReadOnly: true})
	var e *nixdb.Error
	if !errors.As(err, &e) || !errors.Is(err, nixdb.ErrBusy) {
		t.Errorf("opened for reading: %v", err)
	}
	lock(unix.F_UNLCK, 120, 3)
	lock(unix.F_UNLCK, 128, 1)
	if n := len(allPaths(t, open(t, left, nixdb.Options{ReadOnly: true}))); n != 1 {
		t.Errorf("%d paths when it has gone", n)
	}
}
