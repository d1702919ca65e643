package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
)

// share makes the files of a verified object those of the cache that are the same, and the others ones of the cache. What
// goes wrong with that costs room and nothing else.
func (st *stage) share() {
	if st.contents == nil {
		return
	}
	x := st.contents
	for n := range x.Tree().Len() {
		if _, ok := x.FileDigest(n); !ok {
			continue
		}
		err := st.shareFile(x, n)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EXDEV) {
			return // the others will not do better
		}
		if err != nil {
			st.c.o.Log.Debug(fmt.Sprintf("a file is not shared: %v", err))
		}
	}
}

// shareFile does so for one file.
func (st *stage) shareFile(x *fileindex.Contents, n uint32) error {
	name, at := st.c.fileName(x, n), filepath.Join(st.object(), x.Tree().Path(n))
	err := os.Link(at, name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
			err = os.Link(at, name)
		}
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !st.c.sameFile(context.Background(), x, n) {
		return nil
	}
	temporary := filepath.Join(st.dir, ".shared")
	err = st.link(x, n, temporary)
	if errors.Is(err, unix.EMLINK) {
		// It has all the names that it can have: from now on it is this one.
		if err = os.Link(at, temporary); err == nil {
			err = os.Rename(temporary, name)
		}
		return err
	}
	if err != nil {
		return err
	}
	return errors.Join(replaceIn(temporary, at), ignoreMissing(os.Remove(temporary)))
}

// link gives a file of the cache a name in the stage, and notes if no complete object had it. Of several objects that get
// it at once only the first one finds it alone: in turn, since otherwise none of them might.
func (st *stage) link(x *fileindex.Contents, n uint32, at string) error {
	turn := st.c.turn(x, n)
	turn.Lock()
	defer turn.Unlock()
	if err := os.Link(st.c.fileName(x, n), at); err != nil {
		return err
	}
	var is unix.Stat_t
	if unix.Lstat(at, &is) == nil && is.Nlink == 2 {
		st.alone += onDisk(is.Size)
	}
	return nil
}

// replaceIn renames a file over another one, in a directory that its owner may not be allowed to write to.
func replaceIn(from, at string) error {
	err := os.Rename(from, at)
	if !errors.Is(err, fs.ErrPermission) {
		return restoreTime(filepath.Dir(at), err)
	}
	dir := filepath.Dir(at)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.Rename(from, at), os.Chmod(dir, 0o555), storeTimes(dir))
}

// restoreTime gives a directory in which something was renamed the time of a store.
func restoreTime(dir string, err error) error {
	if err != nil {
		return err
	}
	return storeTimes(dir)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// inodes are those of the files below a directory that nothing else has but the cache, and how many names each has there.
func inodes(dir string) map[uint64]uint64 {
	names, all := map[uint64]uint64{}, map[uint64]uint64{}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what cannot be seen stays
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && st.Nlink > 1 {
			names[st.Ino]++
			all[st.Ino] = uint64(st.Nlink) //nolint:unconvert // not on all architectures
		}
		return nil
	})
	maps.DeleteFunc(names, func(ino, here uint64) bool { return all[ino] != here+1 })
	return names
}

// removeObjects removes a directory with objects, and the files that only they and the cache have: those first,
// since of what is left of the directory somebody takes care if this process is killed.
func (c *Cache) removeObjects(ctx context.Context, dir string) error {
	if alone := inodes(dir); len(alone) > 0 {
		c.sweepFiles(ctx, alone, false, time.Time{})
		crashpoint.Reached("lazy: files of an object removed")
	}
	_, err := nar.RemoveTree(ctx, dir)
	return err
}

// staleFile is for how long a file stays that is being written: longer than that takes.
const staleFile = time.Hour

// sweepFiles removes files of the cache: those with one of the inodes, which somebody else has besides by so many names; and of those that no complete object
// has all, if all is set, and those that were not read since old. It gives the bytes that were freed, and those that such files still take.
func (c *Cache) sweepFiles(ctx context.Context, of map[uint64]uint64, all bool, old time.Time) (freed, left int64) {
	_ = eachName(ctx, c.at(filesDir), func(some string) {
		_ = eachName(ctx, c.at(filesDir, some), func(name string) {
			path := c.at(filesDir, some, name)
			var st unix.Stat_t
			if unix.Lstat(path, &st) != nil {
				return
			}
			if st.Nlink > 1 {
				if uint64(st.Nlink) == of[st.Ino]+1 { //nolint:unconvert // see above
					_ = os.Remove(path)
				}
				return
			}
			used := time.Unix(st.Atim.Unix())
			fresh := strings.Contains(name, ".new-") && time.Since(used) < staleFile
			if fresh || !(all || used.Before(old)) || os.Remove(path) != nil {
				left += st.Blocks * 512
				return
			}
			freed += st.Blocks * 512
		})
	})
	return freed, left
}

// sweepPartial removes the indexes of objects that nobody has read from since old.
func (c *Cache) sweepPartial(ctx context.Context, old time.Time) {
	_ = eachName(ctx, c.at(partialDir), func(name string) {
		var st unix.Stat_t
		path := c.at(partialDir, name)
		if unix.Lstat(path, &st) == nil && time.Unix(st.Mtim.Unix()).Before(old) {
			_ = os.Remove(path)
		}
	})
}
