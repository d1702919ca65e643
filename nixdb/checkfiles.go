package nixdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
)

// maxLog is from which size on a write-ahead log is worth a line: some four times
// what it has when changes are written back in time.
const maxLog = 1 << 30

// checkFiles looks at the files of the database and beside it, without opening them:
// that would drop locks of ours. Of one that is for reading only anything will do that
// could be read.
func (db *DB) checkFiles(found *findings) {
	if db.o.ReadOnly {
		return
	}
	dir, err := os.Stat(db.dir)
	if err != nil {
		return // nothing could be read then, which was told
	}
	for _, name := range db.files() {
		fi, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if why := fileFault(fi, err, dir); why != "" {
			found.add(Damage{Kind: DamagedFiles, Text: fmt.Sprintf("'%s' %s", name, why)})
		}
	}
	if fi, err := os.Lstat(db.file + "-wal"); err == nil && fi.Size() > maxLog {
		found.add(Damage{Kind: DamagedFiles, Text: fmt.Sprintf("%d bytes of changes lie in '%s-wal' and are not written back: a reader that does not end keeps them there", fi.Size(), db.file)})
	}
}

func (db *DB) files() []string {
	return []string{db.file, db.file + "-wal", db.file + "-shm", db.file + "-journal", db.dir + "/big-lock", db.dir + "/schema"}
}

// fileFault says what is wrong with a file that Nix must be able to open for writing.
func fileFault(fi fs.FileInfo, err error, dir fs.FileInfo) string {
	const needed = 0o600
	switch {
	case err != nil:
		return "cannot be looked at: " + err.Error()
	case !fi.Mode().IsRegular():
		return "is no regular file"
	case fi.Mode().Perm()&needed != needed:
		return fmt.Sprintf("has mode %04o, so that its owner cannot read and write it", fi.Mode().Perm())
	}
	mine, ok := fi.Sys().(*syscall.Stat_t)
	theirs, ok2 := dir.Sys().(*syscall.Stat_t)
	if ok && ok2 && mine.Uid != theirs.Uid {
		return fmt.Sprintf("belongs to user %d, and its directory to %d", mine.Uid, theirs.Uid)
	}
	return ""
}

// MendFiles gives the files of the database the owner of their directory and modes
// with which they can be used, and writes back what is in the log.
func (db *DB) MendFiles(ctx context.Context) error {
	dir, err := os.Stat(db.dir)
	if err != nil {
		return err
	}
	for _, name := range db.files() {
		fi, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && fileFault(fi, nil, dir) == "" {
			continue
		}
		if err == nil && !fi.Mode().IsRegular() {
			err = fmt.Errorf("'%s' is no regular file", name)
		}
		if err != nil {
			return err
		}
		if err := os.Chmod(name, fi.Mode().Perm()|0o600); err != nil {
			return err
		}
		if st, ok := dir.Sys().(*syscall.Stat_t); ok {
			if err := os.Lchown(name, int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, unix.EPERM) {
				return err
			}
		}
		crashpoint.Reached("nixdb: mode and owner of a file set")
	}
	return db.checkpoint(ctx)
}

// checkpoint writes back what is in the log, as far as readers let it.
func (db *DB) checkpoint(ctx context.Context) error {
	if db.o.NoWAL {
		return nil
	}
	return db.retry(ctx, "writing back the log", 0, func() error {
		c, err := db.acquire(ctx, true)
		if err != nil {
			return err
		}
		err = c.script("pragma wal_checkpoint(passive)")
		db.release(c, true, err)
		return err
	})
}
