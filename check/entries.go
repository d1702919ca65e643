package check

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runBytes is how much of a directory is sorted in memory; what is more is sorted in
// temporary files. It is room for about a million objects.
const runBytes = 64 << 20

// entry is a name in a directory.
type entry struct {
	name string
	typ  uint8 // unix.DT_*
}

// entries gives the names of a directory in their order, each once.
type entries struct {
	runs  []*run
	last  string
	begun bool
}

// readEntries reads a directory. It holds the names in a compact form: a million takes
// some 70 MB, ten million no more. The caller closes it.
func readEntries(ctx context.Context, dir string, limit int) (e *entries, err error) {
	e = &entries{}
	defer func() {
		if err != nil {
			e.close()
			err = fmt.Errorf("listing '%s': %w", dir, err)
		}
	}()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return e, err
	}
	defer unix.Close(fd)
	var names nameHeap
	buf := make([]byte, 256<<10)
	for {
		if err := context.Cause(ctx); err != nil {
			return e, err
		}
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return e, err
		}
		if n <= 0 {
			break
		}
		if err := names.addAll(fd, buf[:n]); err != nil {
			return e, err
		}
		if len(names.text) >= limit {
			if err := e.spill(&names); err != nil {
				return e, err
			}
		}
	}
	names.sort()
	e.runs = append(e.runs, &run{heap: names})
	for _, r := range e.runs {
		if err := r.advance(); err != nil {
			return e, err
		}
	}
	return e, nil
}

// next gives the next entry; ok is false behind the last.
func (e *entries) next() (x entry, ok bool, err error) {
	for {
		var least *run
		for _, r := range e.runs {
			if r.ok && (least == nil || r.cur.name < least.cur.name) {
				least = r
			}
		}
		if least == nil {
			return entry{}, false, nil
		}
		x = least.cur
		if err := least.advance(); err != nil {
			return x, false, err
		}
		// A directory that changes while it is read may give a name twice.
		if !e.begun || x.name != e.last {
			e.begun, e.last = true, x.name
			return x, true, nil
		}
	}
}

func (e *entries) close() {
	for _, r := range e.runs {
		if r.file != nil {
			_ = r.file.Close() // it has no name, and nothing in it is needed
		}
	}
}

// spill writes names to a temporary file, sorted, and empties them.
func (e *entries) spill(names *nameHeap) error {
	names.sort()
	f, err := os.CreateTemp("", "strata-check-")
	if err != nil {
		return err
	}
	r := &run{file: f}
	e.runs = append(e.runs, r)
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 256<<10)
	for i := range names.refs {
		if _, err := w.Write(names.record(i)); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r.from = bufio.NewReaderSize(f, 64<<10)
	names.text, names.refs = names.text[:0], names.refs[:0]
	return nil
}

// run is a sorted part of a directory, in memory or in a file.
type run struct {
	heap nameHeap
	at   int
	file *os.File
	from *bufio.Reader

	cur entry
	ok  bool
}

func (r *run) advance() error {
	if r.from == nil {
		if r.ok = r.at < len(r.heap.refs); r.ok {
			rec := r.heap.record(r.at)
			r.cur = entry{name: string(rec[2:]), typ: rec[0]}
			r.at++
		}
		return nil
	}
	var head [2]byte
	_, err := io.ReadFull(r.from, head[:])
	if r.ok = err == nil; !r.ok {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	}
	name := make([]byte, head[1])
	if _, err := io.ReadFull(r.from, name); err != nil {
		r.ok = false
		return err
	}
	r.cur = entry{name: string(name), typ: head[0]}
	return nil
}

// nameHeap is names one after the other, each with its type and length before it.
type nameHeap struct {
	text []byte
	refs []nameRef
}

// nameRef is where a name is, with its first bytes to compare.
type nameRef struct {
	first uint64
	at    uint32
}

// record is the type, the length and the name.
func (h *nameHeap) record(i int) []byte {
	at := h.refs[i].at
	return h.text[at : at+2+uint32(h.text[at+1])]
}

func (h *nameHeap) sort() {
	slices.SortFunc(h.refs, func(a, b nameRef) int {
		if c := cmp.Compare(a.first, b.first); c != 0 {
			return c
		}
		return bytes.Compare(h.name(a), h.name(b))
	})
}

func (h *nameHeap) name(r nameRef) []byte {
	return h.text[r.at+2 : r.at+2+uint32(h.text[r.at+1])]
}

func (h *nameHeap) add(name []byte, typ uint8) {
	var first [8]byte
	copy(first[:], name)
	h.refs = append(h.refs, nameRef{binary.BigEndian.Uint64(first[:]), uint32(len(h.text))}) //nolint:gosec // below runBytes and a buffer
	h.text = append(append(h.text, typ, uint8(len(name))), name...)                          //nolint:gosec // NAME_MAX is 255
}

// addAll takes what getdents64 gave.
func (h *nameHeap) addAll(dirfd int, b []byte) error {
	const (
		lengthAt = unsafe.Offsetof(unix.Dirent{}.Reclen)
		typeAt   = unsafe.Offsetof(unix.Dirent{}.Type)
		nameAt   = unsafe.Offsetof(unix.Dirent{}.Name)
	)
	for len(b) > int(nameAt) {
		record := b[:binary.NativeEndian.Uint16(b[lengthAt:])]
		name := record[nameAt:]
		name = name[:max(bytes.IndexByte(name, 0), 0)]
		b = b[len(record):]
		typ := record[typeAt]
		if s := string(name); s == "" || s == "." || s == ".." || len(name) > 255 {
			continue
		}
		if typ == unix.DT_UNKNOWN {
			var st unix.Stat_t
			err := unix.Fstatat(dirfd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return &os.PathError{Op: "lstat", Path: string(name), Err: err}
			}
			typ = typeOf(st.Mode)
		}
		h.add(name, typ)
	}
	return nil
}

// typeOf is the unix.DT_* of a mode.
func typeOf(mode uint32) uint8 { return uint8(mode & unix.S_IFMT >> 12) } //nolint:gosec // four bits
