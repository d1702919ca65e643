package lazy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/crashpoint"
)

// The files of the cache, by what is in them: filesDir has each once, however many objects have it. A
// file has its own name only with all of its contents; until then it ends in partSuffix and has holes.
// Nothing in here is believed: who reads it compares it first, once in each process. So nothing has to be on
// disk at any moment.
const (
	filesDir   = "files"
	partialDir = "partial" // the indexes of objects of which some files are here
	partSuffix = ".part"
)

// storeTime is the modification time of everything in a store.
var storeTime = unix.NsecToTimespec(int64(time.Second))

// fileName is the place of a file in the cache: by contents, size and whether it can be executed.
func (c *Cache) fileName(x *fileindex.Contents, node uint32) string {
	d, _ := x.FileDigest(node)
	n := x.Tree().Node(node)
	name := hex.EncodeToString(d[:])
	mark := ""
	if n.Kind == fusefs.Executable {
		mark = "x"
	}
	return c.at(filesDir, name[:2], name+"-"+strconv.FormatInt(n.Size, 10)+mark)
}

// readChunk reads a chunk that is here, and compares it. ok is false if it is not.
func (c *Cache) readChunk(x *fileindex.Contents, k fileindex.Chunk) (data []byte, ok bool) {
	fd, _, err := c.openKept(x, k.Node)
	if err != nil {
		return nil, false
	}
	defer unix.Close(fd)
	return compareChunk(fd, k)
}

func compareChunk(fd int, k fileindex.Chunk) (data []byte, ok bool) {
	data = make([]byte, k.Size)
	if n, err := preadFull(fd, data, k.Offset); err != nil || n < len(data) {
		return nil, false
	}
	return data, sha256.Sum256(data) == k.Digest
}

// openKept opens a file that is here, in part at least.
func (c *Cache) openKept(x *fileindex.Contents, node uint32) (fd int, complete bool, err error) {
	name := c.fileName(x, node)
	for range 2 { // it may just have been completed
		if fd, err = openFile(name); err != unix.ENOENT {
			break
		}
		if fd, err = openFile(name + partSuffix); err != unix.ENOENT {
			return fd, false, err
		}
	}
	if err != nil {
		err = &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, true, err
}

// readPiece reads p from a chunk that was compared before; off counts from the beginning of the file. fs.ErrNotExist says that
// it has gone. A file that is not complete may have gone, too, and be another one by now, with a hole where
// this chunk was: nothing of it is given out that was not compared just now.
func (c *Cache) readPiece(x *fileindex.Contents, k fileindex.Chunk, p []byte, off int64) error {
	fd, complete, err := c.openKept(x, k.Node)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !complete {
		data, ok := compareChunk(fd, k)
		if !ok {
			return fmt.Errorf("read '%s': %w", c.fileName(x, k.Node), fs.ErrNotExist)
		}
		copy(p, data[off-k.Offset:])
		return nil
	}
	if n, err := preadFull(fd, p, off); err != nil || n < len(p) {
		return fmt.Errorf("read '%s': %w", c.fileName(x, k.Node), errors.Join(err, fs.ErrNotExist))
	}
	return nil
}

func openFile(name string) (int, error) {
	for {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// preadFull reads until p is full or the file ends.
func preadFull(fd int, p []byte, off int64) (done int, err error) {
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, nil
		default:
			done += n
		}
	}
	return done, nil
}

// turn is held by who changes a file.
func (c *Cache) turn(x *fileindex.Contents, node uint32) *sync.Mutex {
	d, _ := x.FileDigest(node)
	return &c.filing[int(d[0])%len(c.filing)]
}

// writeChunk keeps a chunk that was compared.
func (c *Cache) writeChunk(x *fileindex.Contents, k fileindex.Chunk, data []byte) error {
	// Several objects may have the same file come: it is written, and counted, once.
	turn := c.turn(x, k.Node)
	turn.Lock()
	defer turn.Unlock()
	name := c.fileName(x, k.Node)
	if k.Size == x.Tree().Node(k.Node).Size {
		return c.writeWhole(name, data)
	}
	f, err := c.openPart(name, x.Tree().Node(k.Node).Size)
	if errors.Is(err, fs.ErrExist) {
		return nil // it is complete
	}
	if err != nil {
		return err
	}
	if holds(int(f.Fd()), data, k.Offset) {
		return f.Close() // another process, or this one before, was not known to have brought it
	}
	done := c.writes()
	_, err = f.WriteAt(data, k.Offset)
	err = errors.Join(err, f.Close())
	crashpoint.Reached("lazy: chunk written")
	if err != nil {
		done(0)
		return err
	}
	done(k.Size)
	return nil
}

// holds tells whether a file has these bytes at an offset, so that they are neither written nor counted again.
func holds(fd int, data []byte, off int64) bool {
	is := make([]byte, len(data))
	n, err := preadFull(fd, is, off)
	return err == nil && n == len(data) && bytes.Equal(is, data)
}

// isHere tells whether a file of one chunk is here already, and otherwise what it will take that the one which is here does not.
func isHere(name string, data []byte) (yes bool, more int64) {
	more = onDisk(int64(len(data)))
	fd, err := openFile(name)
	if err != nil {
		return false, more
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false, more
	}
	if st.Size == int64(len(data)) && holds(fd, data, 0) {
		return true, 0
	}
	if st.Nlink == 1 {
		more -= onDisk(st.Size)
	}
	return false, more
}

// writeWhole keeps a file of one chunk.
func (c *Cache) writeWhole(name string, data []byte) error {
	here, more := isHere(name, data)
	if here {
		return nil
	}
	done, came := c.writes(), int64(0)
	defer func() { done(came) }()
	f, err := createBeside(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, finishFile(f, name))
	crashpoint.Reached("lazy: file written")
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	crashpoint.Reached("lazy: file named")
	came = more
	return nil
}

// createBeside makes a file that is to be renamed to name.
func createBeside(name string) (*os.File, error) {
	temporary := name + ".new-" + rand.Text()
	f, err := os.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	return f, err
}

// openPart opens a file that is not complete, made if it is not there; fs.ErrExist if it is complete.
func (c *Cache) openPart(name string, size int64) (*os.File, error) {
	if _, err := os.Lstat(name); err == nil {
		return nil, fs.ErrExist
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name+partSuffix, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != size {
		err = f.Truncate(size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// finishFile gives a file the metadata of a store.
func finishFile(f *os.File, name string) error {
	mode := fs.FileMode(0o444)
	if name[len(name)-1] == 'x' {
		mode = 0o555
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []unix.Timespec{{Nsec: unix.UTIME_NOW}, storeTime}, 0)
}

// completeFile gives a file its name of which all chunks should be here; errHoles says that some are not: it was taken away meanwhile,
// and begun anew. Once it has its name it is not compared any more, so now it is.
func (c *Cache) completeFile(ctx context.Context, x *fileindex.Contents, node uint32) error {
	name, turn := c.fileName(x, node), c.turn(x, node)
	f, err := os.OpenFile(name+partSuffix, os.O_RDONLY|unix.O_NOFOLLOW, 0) // nobody but root may write to what is finished
	if err != nil {
		turn.Lock() // somebody may be between its two names
		defer turn.Unlock()
		if _, lerr := os.Lstat(name); lerr == nil {
			return nil // somebody else has done so
		}
		return err
	}
	defer f.Close()
	if !sameContents(ctx, int(f.Fd()), x, node) {
		return fmt.Errorf("'%s': %w", name, errHoles)
	}
	turn.Lock() // while the file is finished, or has neither of its names, nobody goes on with it or begins another one
	defer turn.Unlock()
	if err := finishFile(f, name); err != nil {
		return err
	}
	// What has that name now need not be what was compared.
	ours := name + ".new-" + rand.Text()
	if err := os.Rename(name+partSuffix, ours); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if _, lerr := os.Lstat(name); lerr == nil {
				return nil
			}
			return fmt.Errorf("'%s': %w", name, errHoles)
		}
		return err
	}
	var replaced int64 // and counted
	var st unix.Stat_t
	if unix.Lstat(name, &st) == nil && st.Nlink == 1 {
		replaced = onDisk(st.Size)
	}
	here, err := os.Lstat(ours)
	was, serr := f.Stat()
	if err = errors.Join(err, serr); err == nil && !os.SameFile(here, was) {
		err = fmt.Errorf("'%s': %w", name, errHoles)
	}
	if err == nil {
		err = os.Rename(ours, name)
	}
	if err != nil {
		_ = os.Remove(ours)
		return err
	}
	crashpoint.Reached("lazy: file complete")
	if replaced > 0 {
		c.added(-replaced)
	}
	return nil
}

// errHoles: a file was thought to be all here, and is not.
var errHoles = errors.New("a part of the file is not here any more")

// onDisk is what a file of size bytes takes.
func onDisk(size int64) int64 { return (size + 4095) / 4096 * 4096 }

// sameFile tells whether a file that is here has the contents that it should.
func (c *Cache) sameFile(ctx context.Context, x *fileindex.Contents, node uint32) bool {
	name := c.fileName(x, node)
	fd, err := openFile(name)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if sameContents(ctx, fd, x, node) {
		return true
	}
	if ctx.Err() == nil {
		_ = os.Remove(name) // whoever wants it gets a true one
	}
	return false
}

// sameContents compares a file with what it should be.
func sameContents(ctx context.Context, fd int, x *fileindex.Contents, node uint32) bool {
	buf := make([]byte, fileindex.ChunkSize)
	first, end := x.Chunks(node)
	for i := first; i < end; i++ {
		k := x.Chunk(i)
		if n, err := preadFull(fd, buf[:k.Size], k.Offset); ctx.Err() != nil || err != nil || int64(n) < k.Size || sha256.Sum256(buf[:k.Size]) != k.Digest {
			return false
		}
	}
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Size == x.Tree().Node(node).Size
}
