package wire

import (
	"bufio"
	"encoding/binary"
	"io"
)

// Writer puts values on a stream. It is not for several goroutines.
type Writer struct {
	w   *bufio.Writer
	err error
	tmp [8]byte
}

// NewWriter writes to w, buffered: see Flush.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: bufio.NewWriterSize(w, 32<<10)}
}

// Reset forgets everything, what was not sent and the error, too, and writes to w.
func (w *Writer) Reset(to io.Writer) {
	w.w.Reset(to)
	w.err = nil
}

// Err is the first error.
func (w *Writer) Err() error { return w.err }

// Flush sends what is buffered, and is the first error.
func (w *Writer) Flush() error {
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return w.err
}

// Buffered tells how many bytes Flush would send.
func (w *Writer) Buffered() int { return w.w.Buffered() }

// Write makes the Writer an io.Writer, for streams inside of a message.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}

// Uint64 writes an integer.
func (w *Writer) Uint64(n uint64) {
	binary.LittleEndian.PutUint64(w.tmp[:], n)
	_, _ = w.Write(w.tmp[:]) // kept in w.err
}

// Bool writes a truth value as 0 or 1.
func (w *Writer) Bool(b bool) {
	if b {
		w.Uint64(1)
	} else {
		w.Uint64(0)
	}
}

// Text writes a string with its padding.
func (w *Writer) Text(s string) { w.Joined(s) }

// Joined writes one string, given in parts, with its padding.
func (w *Writer) Joined(parts ...string) {
	n := 0
	for _, s := range parts {
		n += len(s)
	}
	if total := 8 + n + -n&7; total <= w.w.Available() && w.err == nil {
		b := binary.LittleEndian.AppendUint64(w.w.AvailableBuffer(), uint64(n))
		for _, s := range parts {
			b = append(b, s...)
		}
		_, w.err = w.w.Write(append(b, "\x00\x00\x00\x00\x00\x00\x00"[:-n&7]...))
		return
	}
	w.Uint64(uint64(n))
	for _, s := range parts {
		if w.err == nil {
			_, w.err = w.w.WriteString(s)
		}
	}
	w.pad(n)
}

// Bytes writes a string with its padding.
func (w *Writer) Bytes(b []byte) {
	w.Uint64(uint64(len(b)))
	_, _ = w.Write(b) // kept in w.err
	w.pad(len(b))
}

func (w *Writer) pad(n int) {
	var zero [8]byte
	if p := -n & 7; p > 0 {
		_, _ = w.Write(zero[:p]) // kept in w.err
	}
}

// Strings writes a list of strings.
func (w *Writer) Strings(list []string) {
	w.Uint64(uint64(len(list)))
	for _, s := range list {
		w.Text(s)
	}
}
