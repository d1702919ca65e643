package nar

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrWriteOrder is wrapped by a Writer's errors about entries that do not come
// in canonical order, and about contents that do not have the size announced.
var ErrWriteOrder = errors.New("archive written out of order")

// A Writer makes an archive out of the entries it is given. It buffers; the
// archive is complete when Close has returned nil. Errors are sticky. It must
// not be used by two goroutines at once.
//
//	w := nar.NewWriter(dst)
//	w.Next(nar.Entry{Type: nar.TypeDirectory})
//	w.Next(nar.Entry{Path: "hello", Type: nar.TypeRegular, Size: 6})
//	io.WriteString(w, "world\n")
//	err := w.Close()
type Writer struct {
	w    io.Writer
	buf  []byte
	err  error
	path []string // open directories and, last, the latest entry; path[0] is the root
	open int      // how many of path are open directories
	size int64    // of the file being written
	left int64
	file bool // its padding and end are still owed
	done bool // there is a root
}

const writerBuffer = 64 << 10

// NewWriter returns a Writer that writes one archive to w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, buf: make([]byte, 0, writerBuffer)}
}

// Next begins an entry. Entries come as a Reader gives them: the root first,
// with an empty path; a directory before what is in it; the entries of a
// directory sorted by their bytes. Directories end by themselves. After a
// regular file, exactly e.Size bytes must be written before the next call.
func (w *Writer) Next(e Entry) error {
	if w.err == nil {
		w.err = w.next(&e)
	}
	return w.err
}

func (w *Writer) next(e *Entry) error {
	if err := w.endFile(); err != nil {
		return err
	}
	depth, err := w.enter(e)
	if err != nil {
		return fmt.Errorf("%w: %q: %w", ErrWriteOrder, e.Path, err)
	}
	if depth == 0 {
		w.buf = appendOpen(w.buf)
	} else {
		w.buf = appendEntry(w.buf, e.Name())
	}
	switch e.Type {
	case TypeRegular:
		w.buf = appendRegular(w.buf, e.Executable, e.Size)
		w.size, w.left, w.file = e.Size, e.Size, true
	case TypeSymlink:
		w.buf = appendSymlink(w.buf, e.Target)
		w.buf = appendClose(w.buf, depth)
	case TypeDirectory:
		w.buf = append(w.buf, tokDirectory...)
		w.open++
	}
	return w.flush(headerMax)
}

// enter closes the directories that e is not in and makes it the latest entry.
func (w *Writer) enter(e *Entry) (depth int, err error) {
	if err := checkEntry(e); err != nil {
		return 0, err
	}
	if e.Path == "" {
		if w.done {
			return 0, errors.New("second root")
		}
		w.done = true
		w.path = append(w.path, "")
		return 0, nil
	}
	names := strings.Split(e.Path, "/")
	depth = len(names)
	if depth >= MaxDepth {
		return 0, ErrTooDeep
	}
	if depth > w.open {
		return 0, errors.New("not inside the directory that is open")
	}
	for i, name := range names {
		if reason := checkName(name); reason != "" {
			return 0, errors.New(reason)
		}
		if i < depth-1 && name != w.path[i+1] {
			return 0, errors.New("not inside the directory that is open")
		}
	}
	last := names[depth-1]
	if depth < len(w.path) && last <= w.path[depth] {
		return 0, fmt.Errorf("comes after %q", w.path[depth])
	}
	w.closeDirectories(depth)
	w.path = append(w.path[:depth], last)
	return depth, nil
}

func checkEntry(e *Entry) error {
	switch e.Type {
	case TypeRegular:
		if e.Size < 0 {
			return errors.New("negative size")
		}
	case TypeSymlink:
		if reason := checkTarget(e.Target); reason != "" {
			return errors.New(reason)
		}
	case TypeDirectory:
	default:
		return ErrUnsupportedType
	}
	return nil
}

// closeDirectories ends all directories but the outermost n.
func (w *Writer) closeDirectories(n int) {
	for w.open > n {
		w.open--
		w.buf = appendClose(w.buf, w.open)
	}
}

// Write writes contents of the regular file that Next began.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		w.err = fmt.Errorf("%w: %q: contents are longer than %d bytes", ErrWriteOrder, w.latest(), w.size)
		return 0, w.err
	}
	w.left -= int64(len(p))
	if len(p) <= cap(w.buf)-len(w.buf) {
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	if w.err = w.flush(cap(w.buf)); w.err != nil {
		return 0, w.err
	}
	if len(p) < cap(w.buf) {
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}

func (w *Writer) latest() string {
	if len(w.path) < 2 {
		return ""
	}
	return strings.Join(w.path[1:], "/")
}

// endFile writes what follows a file's contents, if there was a file.
func (w *Writer) endFile() error {
	if !w.file {
		return nil
	}
	if w.left > 0 {
		return fmt.Errorf("%w: %q: contents lack %d of %d bytes", ErrWriteOrder, w.latest(), w.left, w.size)
	}
	w.file = false
	w.buf = appendPadding(w.buf, w.size)
	w.buf = appendClose(w.buf, len(w.path)-1)
	return nil
}

// flush makes room for n more bytes.
func (w *Writer) flush(n int) error {
	if cap(w.buf)-len(w.buf) >= n {
		return nil
	}
	_, err := w.w.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// Close ends the archive and flushes it. It does not close the underlying
// writer. The archive must have a root.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.err = w.endFile(); w.err != nil {
		return w.err
	}
	if !w.done {
		w.err = fmt.Errorf("%w: no root", ErrWriteOrder)
		return w.err
	}
	w.closeDirectories(0)
	if w.err = w.flush(cap(w.buf)); w.err != nil {
		return w.err
	}
	w.err = errClosed
	return nil
}

var errClosed = errors.New("archive is closed already")
