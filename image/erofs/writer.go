package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrTooLarge says that something does not fit into an image.
	ErrTooLarge = errors.New("too large for an EROFS image")
	// ErrName says that a name cannot be that of an entry, or is there already.
	ErrName = errors.New("cannot be an entry")
	// ErrSize says that a file had more or fewer bytes than was said.
	ErrSize = errors.New("is not as long as was said")
)

// Options say what an image is like. The zero value is useful.
type Options struct {
	// Time is that of everything, in seconds since 1970.
	Time uint64
	// Label is the name of the volume, up to 15 bytes.
	Label string
	// Link makes equal files one: with the same contents and the same mode.
	Link bool
}

// A Writer writes one image. It is not safe for concurrent use.
type Writer struct {
	opts   Options
	space  space
	root   [blockSize - rootOffset]byte // of block 0, from the root's inode on
	open   []*directory                 // from the root to where we are
	inodes uint64
	equal  map[fileID]linked // if equal files are to become one
	tail   [blockSize]byte
	err    error
}

// NewWriter begins an image, in whose root it is then.
func NewWriter(out Output, o Options) (*Writer, error) {
	if len(o.Label) > maxLabel {
		return nil, fmt.Errorf("label '%.40s': %w", o.Label, ErrTooLarge)
	}
	w := &Writer{opts: o, space: space{out: out, end: blockSize}}
	if o.Link {
		w.equal = make(map[fileID]linked)
	}
	w.open = []*directory{{perm: 0o755}}
	return w, nil
}

// Mkdir makes a directory and goes into it.
func (w *Writer) Mkdir(name string, perm uint32) error {
	if w.err == nil {
		w.err = checkName(name)
	}
	if w.err == nil {
		w.open = append(w.open, &directory{name: name, perm: perm & 0o7777})
	}
	return w.err
}

// Leave ends the directory that was made last.
func (w *Writer) Leave() error {
	switch {
	case w.err != nil:
	case len(w.open) < 2:
		w.err = errors.New("left more directories than were made")
	default:
		w.err = w.leave()
	}
	return w.err
}

func (w *Writer) leave() error {
	d := w.open[len(w.open)-1]
	parent := w.open[len(w.open)-2]
	at, up, err := w.putDirectory(d)
	if err != nil {
		return err
	}
	if len(w.open) == 2 { // the root's place is known
		if err := w.space.patch(up, slot(rootOffset)); err != nil {
			return err
		}
	} else {
		parent.ups = append(parent.ups, up)
	}
	for _, below := range d.ups {
		if err := w.space.patch(below, slot(at)); err != nil {
			return err
		}
	}
	w.open = w.open[:len(w.open)-1]
	parent.dirs++
	parent.add(d.name, at, entryDir)
	return nil
}

// Symlink makes a symbolic link.
func (w *Writer) Symlink(name, target string) error {
	if w.err == nil {
		w.err = checkName(name)
	}
	if w.err == nil && (target == "" || len(target) > maxTarget || strings.IndexByte(target, 0) >= 0) {
		w.err = fmt.Errorf("target of '%s': %w", name, ErrName)
	}
	if w.err != nil {
		return w.err
	}
	n := inode{mode: unix.S_IFLNK | 0o777, links: 1, size: int64(len(target))}
	at, err := w.put(&n, []byte(target))
	if err == nil {
		w.here().add(name, at, entrySymlink)
	}
	w.err = err
	return err
}

// Close ends the image. uuid is its name; one that follows from the contents keeps the
// image the same. The output remains open.
func (w *Writer) Close(uuid [16]byte) error {
	if w.err == nil && len(w.open) != 1 {
		w.err = errors.New("a directory was not left")
	}
	if w.err == nil {
		w.err = w.finish(uuid)
	}
	err := w.err
	if err == nil {
		w.err = errors.New("the image is closed")
	}
	return err
}

func (w *Writer) finish(uuid [16]byte) error {
	if err := w.putRoot(); err != nil {
		return err
	}
	if err := w.patchAllLinks(); err != nil {
		return err
	}
	end, err := w.space.finish()
	if err != nil {
		return err
	}
	blocks, err := block(end)
	if err != nil {
		return err
	}
	s := super{inodes: w.inodes, time: w.opts.Time, blocks: blocks, uuid: uuid, label: w.opts.Label}
	first := make([]byte, blockSize)
	copy(first[rootOffset:], w.root[:])
	s.encode(first)
	_, err = w.space.out.WriteAt(first, 0)
	return err
}

func (w *Writer) here() *directory { return w.open[len(w.open)-1] }

// put writes an inode with its contents, which are short or in whole: what fits beside it
// goes there. It gives the inode's place.
func (w *Writer) put(n *inode, contents []byte) (int64, error) {
	whole := len(contents) &^ (blockSize - 1)
	if rest := len(contents) - whole; rest > 0 && n.encodedSize()+rest <= blockSize {
		n.inline = true
	} else {
		whole = len(contents)
	}
	if whole > 0 {
		var err error
		if n.block, err = block(w.space.end); err != nil {
			return 0, err
		}
		if err := w.space.append(contents[:whole]); err != nil {
			return 0, err
		}
		if err := w.space.fill(); err != nil {
			return 0, err
		}
	}
	return w.putInode(n, contents[whole:])
}

// putInode writes an inode with what lies beside it.
func (w *Writer) putInode(n *inode, inline []byte) (int64, error) {
	w.inodes++
	n.number = uint32(w.inodes) //nolint:gosec // as far as it goes
	size := n.encodedSize()
	at, b, err := w.space.take(size + len(inline))
	if err != nil {
		return 0, err
	}
	n.encode(b, w.opts.Time)
	copy(b[size:], inline)
	return at, nil
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("'%.300s' %w", name, ErrName)
	}
	return nil
}

// slot is the number of the inode at a place, as directories have it.
func slot(at int64) []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(at)>>slotBits) //nolint:gosec // not negative
}
