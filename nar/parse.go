package nar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// This is the grammar. Each method takes from the source what its name says, or
// returns a *FormatError.

// step takes everything up to the next entry's contents.
func (r *Reader) step() error {
	switch r.state {
	case atStart:
		if err := r.expectMagic(); err != nil {
			return err
		}
		if err := r.expect(runOpenType); err != nil {
			return err
		}
		return r.object()
	case inContents:
		if err := r.finishContents(); err != nil {
			return err
		}
		fallthrough
	case atClose:
		if err := r.expect(tokClose); err != nil {
			return err
		}
		if err := r.leave(); err != nil {
			return err
		}
	}
	for r.state == inDirectory {
		more, err := r.entryFollows()
		if err != nil {
			return err
		}
		if more {
			return r.entry()
		}
		r.open--
		if err := r.leave(); err != nil {
			return err
		}
	}
	return io.EOF
}

// leave is called after an object's end, to take the end of the directory entry
// that it was in.
func (r *Reader) leave() error {
	if r.open == 0 {
		r.state = atEnd
		return nil
	}
	r.state = inDirectory
	r.cur.depth = r.open
	return r.expect(tokClose)
}

// entryFollows takes the end of a directory, or nothing if there is another
// entry in it.
func (r *Reader) entryFollows() (bool, error) {
	b, err := r.src.peek(len(tokEntry))
	switch {
	case string(b) == tokEntry:
		return true, nil
	case string(b) == tokClose:
		return false, r.src.advance(len(tokClose))
	case err != nil:
		return false, r.cut(err)
	}
	return false, r.malformed(r.src.off, "expected tag 'entry' or ')', got "+describe(b))
}

// entry takes the header of a directory entry and then its object.
func (r *Reader) entry() error {
	r.cur.depth = r.open - 1 // for errors, until the name is known
	if r.open == MaxDepth {
		return &FormatError{Offset: r.src.off, Path: r.path(), Reason: "object " + ErrTooDeep.Error(), Err: ErrTooDeep}
	}
	r.src.want(len(runNewEntry) + 16)
	if err := r.expect(runNewEntry); err != nil {
		return err
	}
	b, err := r.src.peek(8)
	if err != nil {
		return r.cut(err)
	}
	size := binary.LittleEndian.Uint64(b)
	if size > MaxName {
		return r.malformed(r.src.off, "file name is longer than 255 bytes")
	}
	full := 8 + int(size) + padding(size)
	r.src.want(full + len(runNodeOpenType) + len(tokRegular))
	if b, err = r.src.peek(full); err != nil {
		return r.cut(err)
	}
	if err := r.enter(b[8:8+size], b[8+size:]); err != nil {
		return err
	}
	if err := r.src.advance(full); err != nil {
		return err
	}
	if err := r.expect(runNodeOpenType); err != nil {
		return err
	}
	return r.object()
}

// enter checks an entry's name and makes it the present one.
func (r *Reader) enter(name, pad []byte) error {
	if reason := checkName(name); reason != "" {
		return r.malformed(r.src.off, reason)
	}
	if string(pad) != string(zeros[:len(pad)]) {
		return r.malformed(r.src.off, "non-zero padding")
	}
	latest := &r.names[r.open]
	switch bytes.Compare(name, latest.bytes()) {
	case 0:
		return r.malformed(r.src.off, fmt.Sprintf("directory has two entries named %q", name))
	case -1:
		return r.malformed(r.src.off, fmt.Sprintf("directory is not sorted: %q comes after %q", name, latest.bytes()))
	}
	latest.n = copy(latest.b[:], name)
	r.cur.depth = r.open
	return nil
}

// object takes what follows the "type" token, up to a file's contents, a
// symlink's target or a directory's first entry.
func (r *Reader) object() error {
	r.cur = node{depth: r.cur.depth}
	b, err := r.src.peek(16)
	switch {
	case string(b) == tokRegular:
		r.cur.typ = TypeRegular
		return r.regular()
	case string(b) == tokSymlink:
		r.cur.typ = TypeSymlink
		return r.symlink()
	case string(b) == tokDirectory[:16]:
		r.cur.typ = TypeDirectory
		return r.directory()
	case err != nil:
		return r.cut(err)
	}
	return r.malformed(r.src.off, "unknown file type "+describe(b))
}

func (r *Reader) directory() error {
	if err := r.expect(tokDirectory); err != nil {
		return err
	}
	r.open++
	if r.open < MaxDepth {
		r.names[r.open].n = 0
	}
	r.state = inDirectory
	return nil
}

func (r *Reader) regular() error {
	r.src.want(len(tokRegular) + len(tokContents) + 8)
	r.src.advance(len(tokRegular))
	b, err := r.src.peek(16)
	if err != nil && len(b) < 16 {
		return r.cut(err)
	}
	if string(b) == tokExecutable[:16] {
		r.src.want(len(tokExecutable) + len(tokEmpty) + len(tokContents) + 8)
		if err := r.expect(tokExecutable); err != nil {
			return err
		}
		if err := r.expect(tokEmpty); err != nil {
			return err
		}
		r.cur.executable = true
	}
	if err := r.expect(tokContents); err != nil {
		return err
	}
	if b, err = r.src.peek(8); err != nil {
		return r.cut(err)
	}
	size := binary.LittleEndian.Uint64(b)
	if size > math.MaxInt64 {
		return r.malformed(r.src.off, "file size is above 2^63-1")
	}
	if err := r.src.advance(8); err != nil {
		return err
	}
	r.cur.size, r.cur.offset = int64(size), r.src.off
	r.left = r.cur.size
	r.state = inContents
	return nil
}

// finishContents takes what was not read of a file, and the padding. It then
// looks ahead over the ends of file and entry to the token after them.
func (r *Reader) finishContents() error {
	if err := r.src.skip(r.left); err != nil {
		return r.fail(err)
	}
	r.left = 0
	pad := padding(uint64(r.cur.size))
	ahead := pad + len(tokClose)
	if r.open > 0 {
		ahead += len(tokClose) + len(tokClose)
	}
	r.src.want(ahead)
	return r.expectPadding(pad)
}

func (r *Reader) symlink() error {
	r.src.want(len(tokSymlink) + len(tokTarget) + 16)
	if err := r.expect(tokSymlink + tokTarget); err != nil {
		return err
	}
	b, err := r.src.peek(8)
	if err != nil {
		return r.cut(err)
	}
	size := binary.LittleEndian.Uint64(b)
	if size > MaxTarget {
		return r.malformed(r.src.off, "symlink target is longer than 4095 bytes")
	}
	if err := r.src.advance(8); err != nil {
		return err
	}
	r.cur.target = make([]byte, size)
	if err := r.src.readFull(r.cur.target); err != nil {
		return r.fail(err)
	}
	if reason := checkTarget(r.cur.target); reason != "" {
		return r.malformed(r.src.off, reason)
	}
	r.state = atClose
	return r.expectPadding(padding(size))
}
