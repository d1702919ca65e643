package wire

import (
	"errors"
	"io"
)

// FrameReader is the stream inside of a framed message: chunks with their
// lengths before them, ended by a chunk of length zero.
type FrameReader struct {
	r    *Reader
	left uint64 // of the current chunk
	done bool
}

// NewFrameReader reads one framed stream off r.
func NewFrameReader(r *Reader) *FrameReader { return &FrameReader{r: r} }

// Read gives io.EOF at the end of the frames, and io.ErrUnexpectedEOF when the
// connection ends first.
func (f *FrameReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if f.left == 0 && !f.done {
		f.left = f.r.Uint64()
		f.done = f.left == 0
	}
	if err := f.r.Err(); err != nil {
		return 0, unexpected(err)
	}
	if f.done {
		return 0, io.EOF
	}
	n, err := f.r.Read(p[:min(uint64(len(p)), f.left)])
	f.left -= uint64(n)
	if n > 0 {
		return n, nil
	}
	return 0, unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Drain reads to the end of the frames, so that the next message can be read.
func (f *FrameReader) Drain() error {
	_, err := io.Copy(io.Discard, f)
	return err
}

// FrameWriter writes a framed stream: each Write is a chunk. Close writes the
// end, and does not close or flush what is below.
type FrameWriter struct{ w *Writer }

// NewFrameWriter writes one framed stream on w.
func NewFrameWriter(w *Writer) *FrameWriter { return &FrameWriter{w: w} }

func (f *FrameWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, f.w.Err()
	}
	f.w.Uint64(uint64(len(p)))
	return f.w.Write(p)
}

// Close ends the stream.
func (f *FrameWriter) Close() error {
	f.w.Uint64(0)
	return f.w.Err()
}
