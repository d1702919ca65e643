package lazy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// mismatch says that a chunk is another one.
func (pt *partial) mismatch(k fileindex.Chunk, data []byte) error {
	want, _ := nixhash.New(nixhash.SHA256, k.Digest[:])
	sum := sha256.Sum256(data)
	got, _ := nixhash.New(nixhash.SHA256, sum[:])
	return &store.HashMismatchError{What: fmt.Sprintf("of '%s' at byte %d", pt.x.Contents.Tree().Path(k.Node), k.Offset), Want: want, Got: got}
}

// graduate makes an object of which all files are here a complete one.
func (pt *partial) graduate() {
	if err := pt.tryGraduate(context.Background()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		pt.o.s.complain("complete "+pt.info.Path.Base(), fmt.Errorf("'%s' is here and cannot be made complete: %w", pt.info.Path, err))
	}
}

func (pt *partial) tryGraduate(ctx context.Context) error {
	c := pt.o.s.o.Cache
	lock, err := c.lockFetch(ctx, pt.info.Path)
	if err != nil {
		return err
	}
	defer fetching{lock}.done()
	if c.Has(pt.info.Path) {
		return nil
	}
	st, err := c.newStage(pt.info)
	if err != nil {
		return err
	}
	st.origin, st.tree = pt.source(), pt.x.Contents.Tree()
	if err := pt.build(ctx, st); err != nil {
		st.remove()
		return err
	}
	crashpoint.Reached("lazy: object put together")
	h := nixhash.SHA256.New()
	if err := nar.Dump(ctx, h, st.object()); err != nil {
		st.remove()
		return err
	}
	if got := nixhash.Sum(nixhash.SHA256, h); got != pt.info.NarHash {
		st.remove()
		return pt.lied(ctx, &store.HashMismatchError{What: "of the NAR", Want: pt.info.NarHash, Got: got})
	}
	c.stage(st)
	defer c.unstage(st)
	if err := st.publish(); err != nil {
		return err
	}
	pt.o.s.count.completed.Add(1)
	return nil
}

// source is where the object comes from: who gave the last of its files, or, if all of them were here, one that
// vouches for its index.
func (pt *partial) source() string {
	pt.mu.Lock()
	from := pt.from
	pt.mu.Unlock()
	if from != "" {
		return from
	}
	for _, o := range pt.o.s.o.Origins {
		if from == "" || o.Trusted {
			from = o.Store.URI()
		}
		if o.Trusted {
			break
		}
	}
	return from
}

// lied is called when all files are as the index says and their NAR is not that of the object: either a file of the cache
// was spoilt since it was compared, or who signed the index was wrong.
func (pt *partial) lied(ctx context.Context, why error) error {
	c := pt.o.s.o.Cache
	t := pt.x.Contents.Tree()
	spoilt := false
	for n := range t.Len() {
		if first, end := pt.x.Contents.Chunks(n); first < end && !c.sameFile(ctx, pt.x.Contents, n) {
			spoilt = true
			pt.unmarkFile(n)
		}
	}
	if spoilt {
		pt.o.s.count.damage.Add(1)
		return fmt.Errorf("a file of the cache was not what it had been, and is fetched again: %w", why)
	}
	pt.o.s.count.lied.Add(1)
	pt.o.s.distrust(pt.info)
	pt.mu.Lock()
	pt.whole = true
	pt.have = make([]uint64, len(pt.have))
	pt.left = pt.x.Contents.Len()
	clear(pt.unkept)
	pt.mu.Unlock()
	_ = os.Remove(c.at(partialDir, pt.info.Path.Base()))
	return fmt.Errorf("its file index was signed, and is not that of the object: %w", why)
}

// build puts an object together of the files of the cache.
func (pt *partial) build(ctx context.Context, st *stage) error {
	t, top := pt.x.Contents.Tree(), st.object()
	path := func(n uint32) string {
		if n == 0 {
			return top
		}
		return filepath.Join(top, t.Path(n))
	}
	for n := range t.Len() {
		at := path(n)
		var err error
		switch node := t.Node(n); node.Kind {
		case fusefs.Directory:
			st.made.Directories++
			err = os.Mkdir(at, 0o755)
		case fusefs.Symlink:
			if err = os.Symlink(node.Target, at); err == nil {
				err = storeTimes(at)
			}
		default:
			st.made.Files++
			if err = pt.linkFile(ctx, st, n, at); errors.Is(err, fs.ErrNotExist) {
				pt.unmarkFile(n) // it has been evicted, and comes again when somebody reads it
			}
		}
		if err != nil {
			return err
		}
	}
	for n := t.Len(); n > 0; n-- { // what is in a directory has higher numbers than itself
		if t.Kind(n-1) != fusefs.Directory {
			continue
		}
		at := path(n - 1)
		if err := os.Chmod(at, 0o555); err != nil {
			return err
		}
		if err := storeTimes(at); err != nil {
			return err
		}
	}
	return nil
}

// storeTimes sets the times that everything in a store has.
func storeTimes(path string) error {
	err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{storeTime, storeTime}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &os.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

// linkFile makes a file of an object that is the one of the cache, or a copy if that has too many names.
func (pt *partial) linkFile(ctx context.Context, st *stage, n uint32, at string) error {
	c := pt.o.s.o.Cache
	node := pt.x.Contents.Tree().Node(n)
	if node.Size > 0 {
		err := st.link(pt.x.Contents, n, at)
		if os.IsNotExist(err) && c.completeFile(ctx, pt.x.Contents, n) == nil {
			err = st.link(pt.x.Contents, n, at) // several processes had each a part of it come
		}
		if err == nil || os.IsNotExist(err) {
			return err
		}
		return copyFile(c.fileName(pt.x.Contents, n), at)
	}
	mode := os.FileMode(0o444)
	if node.Kind == fusefs.Executable {
		mode = 0o555
	}
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return storeTimes(at)
}

// copyFile makes a file that shares the blocks of another one where the file system can do that, and has
// its own otherwise. It takes the other one's place in the cache, since that one can have no more links.
func copyFile(name, at string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := createBeside(name)
	if err != nil {
		return err
	}
	if err = unix.IoctlFileClone(int(f.Fd()), int(in.Fd())); err != nil {
		_, err = f.ReadFrom(in)
	}
	if err == nil {
		err = finishFile(f, name)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(f.Name(), at)
	}
	if err == nil {
		return os.Rename(f.Name(), name)
	}
	_ = os.Remove(f.Name())
	return err
}
