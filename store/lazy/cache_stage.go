package lazy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
)

// stage is where an object is made that is to become one of the cache's: a directory that
// holds it under its own name.
type stage struct {
	c    *Cache
	dir  string
	lock *flock.Lock // held as long as somebody is at work here
	info *store.PathInfo
	// origin is the URI of where it comes from.
	origin string
	tree   *fusefs.Tree
	// contents are those of the tree; nil if the files are those of the cache already.
	contents *fileindex.Contents
	made     nar.Stats
	alone    int64 // bytes of its files that the cache had, and that are counted with the object from now on
}

// stageLock is the file in a stage that its process has locked.
const stageLock = ".lock"

// newStage makes a place for an object.
func (c *Cache) newStage(info *store.PathInfo) (*stage, error) {
	dir, lock, err := c.workplace("")
	if err != nil {
		return nil, err
	}
	return &stage{c: c, dir: dir, info: info, lock: lock}, nil
}

// workplace makes a directory in tmp, locked. Another process that looks for what is left over may
// take one away between the two steps: then it is made again.
func (c *Cache) workplace(pattern string) (dir string, lock *flock.Lock, err error) {
	const attempts = 100
	for range attempts {
		if dir, err = os.MkdirTemp(c.at(tmpDir), pattern); err != nil {
			return "", nil, err
		}
		if lock, err = flock.Open(filepath.Join(dir, stageLock)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, errors.Join(err, os.Remove(dir))
		}
		ours, err := lock.Try(flock.Exclusive)
		if _, lerr := os.Lstat(filepath.Join(dir, stageLock)); ours && err == nil && lerr == nil {
			return dir, lock, nil
		}
		if cerr := lock.Close(); err != nil || cerr != nil {
			return "", nil, errors.Join(err, cerr)
		}
	}
	return "", nil, fmt.Errorf("making a directory in '%s': somebody removes it each time", c.at(tmpDir))
}

// object is where the object itself is.
func (st *stage) object() string { return filepath.Join(st.dir, st.info.Path.Base()) }

// remove gives the stage up with all that is in it.
func (st *stage) remove() {
	if _, err := nar.RemoveTree(context.Background(), st.dir); err != nil {
		st.c.o.Log.Warn(fmt.Sprintf("in the cache of lazy objects: %v", err))
	}
	if st.lock != nil {
		_ = st.lock.Close()
	}
}

// unpack reads the NAR that info promises from r and unpacks it. When it returns without an
// error, the object is the promised one.
func (st *stage) unpack(ctx context.Context, r io.Reader) error {
	h := nixhash.SHA256.New()
	pr, pw := io.Pipe()
	listed := make(chan error, 1)
	go func() {
		var err error
		st.contents, err = fileindex.Scan(bufio.NewReaderSize(pr, fileindex.ChunkSize), nil)
		_ = pr.CloseWithError(err) // whatever follows is not read
		listed <- err
	}()
	limited := &io.LimitedReader{R: r, N: int64(min(st.info.NarSize, 1<<62)) + 1}
	src := io.TeeReader(limited, io.MultiWriter(h, pw))
	var err error
	st.made, err = nar.Restore(ctx, bufio.NewReaderSize(src, 64<<10), st.object(), nar.RestoreOptions{})
	if err == nil {
		err = st.end(src, limited)
	}
	_ = pw.CloseWithError(io.EOF)
	if lerr := <-listed; err == nil && lerr != nil {
		err = lerr
	}
	if err != nil {
		return err
	}
	if got := nixhash.Sum(nixhash.SHA256, h); got != st.info.NarHash {
		return &store.HashMismatchError{What: "of the NAR", Want: st.info.NarHash, Got: got}
	}
	st.tree = st.contents.Tree()
	return nil
}

// end makes sure that the NAR ends where it should, which also lets an origin compare what it
// compares at the end.
func (st *stage) end(src io.Reader, limited *io.LimitedReader) error {
	var more [1]byte
	n, err := io.ReadFull(src, more[:])
	if n > 0 || limited.N == 0 {
		return &store.SizeMismatchError{What: "of the NAR", Want: st.info.NarSize, Got: st.info.NarSize + 1}
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if uint64(st.made.NarSize) != st.info.NarSize {
		return &store.SizeMismatchError{What: "of the NAR", Want: st.info.NarSize, Got: uint64(st.made.NarSize)}
	}
	return nil
}

// fewFiles is up to how many files are brought to disk one by one. More of them are
// quicker together with all else that the file system has to write.
const fewFiles = 32

// publish brings a verified object to disk and puts it to the others. The caller has
// the lock for fetching it.
func (st *stage) publish() error {
	c, base := st.c, st.info.Path.Base()
	tree, info := filepath.Join(st.dir, "tree"), filepath.Join(st.dir, "info")
	text, err := st.infoText()
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(tree, st.tree.Encoded(), 0o644), os.WriteFile(info, text, 0o644)); err != nil {
		return err
	}
	st.share()
	if err := markOpaque(st.object()); err != nil {
		c.o.Log.Debug(fmt.Sprintf("an object cannot be marked for overlays: %v", err))
	}
	if err := st.sync(); err != nil {
		return err
	}
	crashpoint.Reached("lazy: object on disk")
	for from, dir := range map[string]string{tree: treesDir, info: infoDir} {
		if err := os.Rename(from, c.at(dir, base)); err != nil {
			return err
		}
		if err := syncDir(c.at(dir)); err != nil {
			return err
		}
		crashpoint.Reached("lazy: in " + dir)
	}
	err = c.step(1, diskSize(st.tree)-st.alone, func() error { return moveDir(st.object(), c.at(objectsDir, base)) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	crashpoint.Reached("lazy: object renamed")
	if err := c.objects.Sync(); err != nil {
		return err
	}
	_ = os.Remove(c.at(listingsDir, base)) // the true one has come
	_ = os.Remove(c.at(partialDir, base))
	return nil
}

// sync waits until all of the stage is on disk.
func (st *stage) sync() error {
	if st.made.Files+st.made.Directories > fewFiles {
		d, err := os.Open(st.dir)
		if err != nil {
			return err
		}
		defer d.Close()
		if err := unix.Syncfs(int(d.Fd())); err != nil {
			return fmt.Errorf("syncfs '%s': %w", st.dir, err)
		}
		return nil
	}
	return nar.SyncTree(st.dir)
}

// markOpaque keeps an overlay from merging an object with one of the same name below
// it. Which of the two marks counts depends on who mounts, so both are made that can be.
func markOpaque(object string) error {
	fi, err := os.Lstat(object)
	if err != nil || !fi.IsDir() {
		return err
	}
	if err := os.Chmod(object, 0o755); err != nil { // for an owner without privilege
		return err
	}
	trusted, user := overlayfs.SetOpaque(object, false), overlayfs.SetOpaque(object, true)
	if err := os.Chmod(object, fi.Mode().Perm()); err != nil {
		return err
	}
	if trusted != nil && user != nil {
		return user
	}
	return nil
}

// moveDir renames an object, which may be a directory that its owner may not write to.
// It replaces nothing.
func moveDir(from, to string) error {
	rename := func() error { return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE) }
	err := rename()
	if err == unix.EACCES {
		if err = os.Chmod(from, 0o755); err != nil {
			return err
		}
		if err = rename(); err == nil {
			return os.Chmod(to, 0o555)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
