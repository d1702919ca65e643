package nar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// expect takes the tokens in run.
func (r *Reader) expect(run string) error {
	b, err := r.src.peek(len(run))
	if string(b) == run {
		return r.src.advance(len(run))
	}
	for at := r.src.off; ; { // find the token that differs
		n := 8 + int(run[0]) + padding(uint64(run[0]))
		if len(b) < n && string(b) == run[:len(b)] {
			return r.cut(err)
		}
		if len(b) < n || string(b[:n]) != run[:n] {
			return r.malformed(at, "expected tag '"+run[8:8+run[0]]+"', got "+describe(b))
		}
		at += int64(n)
		b, run = b[n:], run[n:]
	}
}

// describe says what string b begins with, for an error message.
func describe(b []byte) string {
	if len(b) < 8 {
		return "less than a length"
	}
	n := binary.LittleEndian.Uint64(b)
	if b = b[8:]; n <= uint64(len(b)) {
		text := fmt.Sprintf("%q", b[:n])
		if pad := b[n:min(uint64(len(b)), (n+7)&^7)]; len(bytes.Trim(pad, "\x00")) > 0 {
			text += " with padding that is not zero"
		}
		return text
	}
	return fmt.Sprintf("a string of %d bytes", n)
}

func (r *Reader) malformed(offset int64, reason string) error {
	return &FormatError{Offset: offset, Path: r.path(), Reason: reason}
}

// cut is the error for a peek that came out short.
func (r *Reader) cut(err error) error {
	if err == io.ErrUnexpectedEOF {
		return &FormatError{Offset: r.src.off, Path: r.path(), Reason: reasonTruncated, Err: err}
	}
	return fmt.Errorf("reading archive at offset %d: %w", r.src.off, err)
}

// fail makes an error of the source stick. Errors of a destination do not
// stick: the archive is as good as it was.
func (r *Reader) fail(err error) error {
	if err == nil {
		return nil
	}
	if we, ok := err.(*writeError); ok {
		return we.err
	}
	r.err = r.cut(err)
	return r.err
}

func (r *Reader) expectPadding(n int) error {
	b, err := r.src.peek(n)
	if err != nil {
		return r.cut(err)
	}
	if string(b) != string(zeros[:n]) {
		return r.malformed(r.src.off, "non-zero padding")
	}
	return r.src.advance(n)
}

func (r *Reader) expectMagic() error {
	r.src.want(len(magic) + len(runOpenType) + len(tokRegular))
	b, err := r.src.peek(len(magic))
	if string(b) == magic {
		return r.src.advance(len(magic))
	}
	if err != nil && string(b) == magic[:len(b)] {
		return r.cut(err)
	}
	return r.malformed(r.src.off, "input doesn't look like a Nix archive")
}
