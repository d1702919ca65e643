package nar

import "io"

// A Reader parses one archive, entry by entry, and refuses whatever is not the
// canonical encoding of a tree. It must not be used by two goroutines at once.
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
// the whole archive been taken from the underlying reader; it is a *FormatError
// if the archive is malformed or truncated, and wraps the underlying reader's
// error otherwise. Errors are sticky.
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

// Read reads the contents of the present entry, which are empty unless it is a
// regular file. At their end it returns io.EOF.
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

// WriteTo writes what was not read yet of the present entry's contents to w. It
// implements io.WriterTo.
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
