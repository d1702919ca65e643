package nixdb

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixdb/btree"
)

// errUnseen: pages cannot be read past SQLite now. It is never told to anybody: the
// question goes to SQLite then.
var errUnseen = errors.New("pages cannot be read directly")

// pageSource gives the pages of the last committed state of a database, past SQLite but
// through the descriptors that it has open, as opening the files once more would
// cost SQLite its locks. It implements btree.Source.
//
// It takes no lock. What was read between begin and a call of unchanged that says
// yes is of one moment; anything else is worth nothing.
type pageSource struct {
	pager *lib.TPager
	fd    int
	size  int
	count uint32 // pages of the database
	wal   bool   // there is a write-ahead log
	seen  walHeader
	cache pageCache
}

// newPageSource finds the pages of a connection, which must be to the file with these
// numbers. It has read from the database before.
func newPageSource(c *sqlite.Conn, s fileState) (p *pageSource, err error) {
	err = errUnseen
	withPointer(c, func(_ *libc.TLS, db uintptr) { p, err = findPages(db, s) })
	return p, err
}

// at reads C's memory: a pointer to something that SQLite keeps as long as the
// connection is open.
func at[T any](p *uintptr) *T { return *(**T)(unsafe.Pointer(p)) }

// findPages follows SQLite's own structures.
func findPages(db uintptr, s fileState) (*pageSource, error) {
	main := at[lib.TDb](&at[lib.Tsqlite3](&db).FaDb)
	if main == nil || main.FpBt == 0 {
		return nil, errUnseen
	}
	shared := at[lib.TBtShared](&at[lib.TBtree](&main.FpBt).FpBt)
	pager := at[lib.TPager](&shared.FpPager)
	if pager.Ffd == 0 || pager.FmemDb != 0 { // an immutable file counts as a temporary one
		return nil, errUnseen
	}
	p := &pageSource{pager: pager, fd: int(at[lib.TunixFile](&pager.Ffd).Fh), size: int(pager.FpageSize), wal: pager.FpWal != 0}
	var st unix.Stat_t
	if err := unix.Fstat(p.fd, &st); err != nil || st.Ino != s.ino ||
		unix.Major(st.Dev) != s.dev[0] || unix.Minor(st.Dev) != s.dev[1] {
		return nil, errUnseen
	}
	if p.size < 512 || p.size > 65536 {
		return nil, errUnseen
	}
	return p, nil
}

// begin starts to read.
func (p *pageSource) begin() bool {
	if p.wal != (p.pager.FpWal != 0) || int(p.pager.FpageSize) != p.size {
		return false
	}
	if p.wal {
		h, ok := p.index().header()
		switch {
		case !ok:
			return false
		case p.count != 0 && h == p.seen:
		case !h.sound() || !p.moveTo(h):
			return false
		default:
			p.count = h.fields().FnPage
		}
	}
	if p.count == 0 { // the log has never had anything in it
		var st unix.Stat_t
		if err := unix.Fstat(p.fd, &st); err != nil || st.Size < int64(p.size) {
			return false
		}
		p.count = uint32(min(st.Size/int64(p.size), 1<<32-2))
	}
	return true
}

// unchanged tells whether what was read since begin is of one moment. Without a log
// that is for the caller to know: see handle.same.
func (p *pageSource) unchanged() bool {
	if !p.wal {
		return true
	}
	if p.pager.FpWal == 0 {
		return false
	}
	h, ok := p.index().header()
	return ok && h == p.seen
}

func (p *pageSource) index() walIndex { return walIndex{at[lib.TWal](&p.pager.FpWal)} }

// moveTo makes the cache one of another state: if there was just more written to
// the log, only the pages in there are other ones.
func (p *pageSource) moveTo(h walHeader) bool {
	was, is := p.seen.fields(), h.fields()
	if size := int(is.FszPage); is.FmxFrame > 0 && size != p.size && !(size == 1 && p.size == 65536) {
		return false
	}
	const few = 4096
	if was.FaSalt != is.FaSalt || is.FmxFrame < was.FmxFrame || is.FmxFrame-was.FmxFrame > few || !p.forget(was.FmxFrame+1, is.FmxFrame) {
		p.cache.clear()
	}
	p.seen = h
	return true
}

// forget drops the pages that are in some frames of the log.
func (p *pageSource) forget(first, last uint32) bool {
	for f := first; f <= last; f++ {
		n, ok := p.index().pageOf(f)
		if !ok {
			return false
		}
		p.cache.drop(n)
	}
	return true
}

// Count implements btree.Source.
func (p *pageSource) Count() int { return int(p.count) }

// Page implements btree.Source.
func (p *pageSource) Page(n uint32) ([]byte, error) {
	if n == 0 || n > p.count {
		return nil, fmt.Errorf("%w: page %d of %d", btree.ErrFormat, n, p.count)
	}
	if b := p.cache.get(n); b != nil {
		return b, nil
	}
	fd, off := p.fd, int64(n-1)*int64(p.size)
	if p.wal {
		frame, ok := p.index().find(n, p.seen.fields().FmxFrame)
		if !ok {
			return nil, errUnseen
		}
		if frame != 0 {
			const walHead, frameHead = 32, 24
			wal := at[lib.TWal](&p.pager.FpWal)
			fd = int(at[lib.TunixFile](&wal.FpWalFd).Fh)
			off = walHead + int64(frame-1)*(frameHead+int64(p.size)) + frameHead
		}
	}
	b := p.cache.room(n, p.size)
	if err := readFull(fd, b, off); err != nil {
		p.cache.drop(n)
		return nil, err
	}
	return b, nil
}

func readFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("%w: the file ends at byte %d", btree.ErrFormat, off)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}
