package nar

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// A Reader parses one archive, entry by entry, and refuses whatever is not
// the canonical encoding of a tree. It must not be used by two goroutines at once.
//
//	r := nar.NewReader(src)
//	for {
//		e, err := r.Next()
//		if err == io.EOF {
//			break // the archive was complete and valid
//		}
//		…
//	}
type Reader struct {
	src   source
	state state
	open  int   // directories that are open: the depth of what comes next
	left  int64 // contents that were not read yet
	err   error // sticky

	cur   node
	names [MaxDepth]name // names[d] is the latest entry at depth d; names[0] stays empty
}

// A node is an Entry without its path, which is in Reader.names.
type node struct {
	typ        Type
	executable bool
	depth      int
	size       int64
	offset     int64
	target     []byte // nil but for symlinks
}

// A name is kept in place, so that parsing allocates nothing.
type name struct {
	n int
	b [MaxName]byte
}

func (n *name) bytes() []byte { return n.b[:n.n] }

type state uint8

const (
	atStart     state = iota
	inDirectory       // an entry or the directory's end comes next
	inContents        // r.left bytes, padding and the object's end
	atClose           // the object's end
	atEnd             // nothing
)

// NewReader returns a Reader that takes exactly one archive from r. See the
// package comment for why r had better be a *bufio.Reader.
func NewReader(r io.Reader) *Reader {
	rd := new(Reader)
	rd.src.init(r)
	return rd
}

// Next advances to the next entry, skipping what was not read of the present
// one's contents. The error is io.EOF after the last entry, and only then has
// the whole archive been taken from the underlying reader; it is a
// *FormatError if the archive is malformed or truncated, and wraps the underlying
// reader's error otherwise. Errors are sticky.
func (r *Reader) Next() (Entry, error) {
	if err := r.next(); err != nil {
		return Entry{}, err
	}
	return Entry{
		Path:       r.path(),
		Type:       r.cur.typ,
		Executable: r.cur.executable,
		Size:       r.cur.size,
		Offset:     r.cur.offset,
		Target:     string(r.cur.target),
	}, nil
}

// Read reads the contents of the present entry, which are empty unless it is
// a regular file. At their end it returns io.EOF.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil && r.err != io.EOF {
		return 0, r.err
	}
	if r.state != inContents || r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.src.read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, r.fail(err)
}

// WriteTo writes what was not read yet of the present entry's contents to w.
// It implements io.WriterTo.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	if r.err != nil && r.err != io.EOF {
		return 0, r.err
	}
	if r.state != inContents {
		return 0, nil
	}
	n, err := r.src.writeTo(w, r.left)
	r.left -= n
	return n, r.fail(err)
}

// Offset is the number of bytes that were taken from the underlying reader.
// After Next has returned io.EOF it is the size of the archive.
func (r *Reader) Offset() int64 { return r.src.off }

// next is Next without the path, which most of this package does not need.
func (r *Reader) next() error {
	if r.err == nil {
		r.err = r.step()
	}
	return r.err
}

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

// leave is called after an object's end, to take the end of the directory
// entry that it was in.
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
		return fmt.Sprintf("%q", b[:n])
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

// path joins the names down to the present entry.
func (r *Reader) path() string {
	if r.cur.depth <= 0 {
		return ""
	}
	n := r.cur.depth - 1
	for d := 1; d <= r.cur.depth; d++ {
		n += r.names[d].n
	}
	b := make([]byte, 0, n)
	for d := 1; d <= r.cur.depth; d++ {
		if d > 1 {
			b = append(b, '/')
		}
		b = append(b, r.names[d].bytes()...)
	}
	return string(b)
}
