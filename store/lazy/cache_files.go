package lazy

import (
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
	name := c.fileName(x, k.Node)
	fd, err := openFile(name)
	if err == unix.ENOENT {
		fd, err = openFile(name + partSuffix)
	}
	if err != nil {
		return nil, false
	}
	defer unix.Close(fd)
	data = make([]byte, k.Size)
	if n, err := preadFull(fd, data, k.Offset); err != nil || n < len(data) {
		return nil, false
	}
	return data, sha256.Sum256(data) == k.Digest
}

// readFile reads from a file that is here in part at least and was compared; fs.ErrNotExist if it has gone.
func (c *Cache) readFile(x *fileindex.Contents, node uint32, p []byte, off int64) error {
	name := c.fileName(x, node)
	fd, err := openFile(name)
	if err == unix.ENOENT {
		fd, err = openFile(name + partSuffix)
	}
	if err == unix.ENOENT { // it may just have been completed
		fd, err = openFile(name)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if n, err := preadFull(fd, p, off); err != nil || n < len(p) {
		return fmt.Errorf("read '%s': %w", name, errors.Join(err, fs.ErrNotExist))
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

// writeChunk keeps a chunk that was compared.
func (c *Cache) writeChunk(x *fileindex.Contents, k fileindex.Chunk, data []byte) error {
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
	_, err = f.WriteAt(data, k.Offset)
	err = errors.Join(err, f.Close())
	crashpoint.Reached("lazy: chunk written")
	if err == nil {
		c.added(k.Size)
	}
	return err
}

// writeWhole keeps a file of one chunk.
func (c *Cache) writeWhole(name string, data []byte) error {
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
	c.added(onDisk(int64(len(data))))
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

// completeFile gives a file its name of which all chunks are here.
func (c *Cache) completeFile(x *fileindex.Contents, node uint32) error {
	name := c.fileName(x, node)
	f, err := os.OpenFile(name+partSuffix, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		if _, lerr := os.Lstat(name); lerr == nil {
			return nil // somebody else has done so
		}
		return err
	}
	if err := errors.Join(finishFile(f, name), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+partSuffix, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	crashpoint.Reached("lazy: file complete")
	return nil
}

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
	buf := make([]byte, fileindex.ChunkSize)
	first, end := x.Chunks(node)
	for i := first; i < end && ctx.Err() == nil; i++ {
		k := x.Chunk(i)
		if n, err := preadFull(fd, buf[:k.Size], k.Offset); err != nil || int64(n) < k.Size || sha256.Sum256(buf[:k.Size]) != k.Digest {
			_ = os.Remove(name) // whoever wants it gets a true one
			return false
		}
	}
	var st unix.Stat_t
	return ctx.Err() == nil && unix.Fstat(fd, &st) == nil && st.Size == x.Tree().Node(node).Size
}
