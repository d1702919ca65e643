package nixdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nixdb/btree"
)

// An image is a copy of an empty database that is filled page by page, past SQLite, and then put into
// its place by SQLite, in one transaction.
type image struct {
	name   string
	file   *os.File
	writer *btree.Writer
	roots  imageRoots
	page   int // bytes of one

	buf   []byte // pages that come one after the other, to be written
	start uint32 // number of the first
}

// imageName is that of the file, beside the database. Who holds the big lock for itself may replace it.
const imageName = "loading.sqlite"

const (
	imageBuffer = 256 << 10 // bytes that are written at once
	// mostEmpty is how many pages a database may have that is taken for empty: more are of tables that
	// are no affair of ours, or left over.
	mostEmpty = 1000
)

// errNoImage: the database has to be filled by SQL.
var errNoImage = errors.New("not empty, or not as expected")

// imageRoots are the root pages of the trees that an image has.
type imageRoots struct {
	paths, pathIndex                       uint32
	refs, refsIndex, referrerIndex         uint32
	referenceIndex                         uint32
	outputs, outputsIndex, outputPathIndex uint32
}

// newImage copies the database of a connection if its tables are empty and as they should be.
func (db *DB) newImage(c *conn) (m *image, err error) {
	roots, err := c.readImageRoots()
	if err != nil {
		return nil, err
	}
	empty, err := c.Serialize("main")
	if err != nil {
		return nil, failure{err}
	}
	m = &image{name: filepath.Join(db.dir, imageName), roots: *roots}
	if m.page, err = roots.ofEmptyTrees(empty); err != nil {
		return nil, err
	}
	empty[offWriteVersion], empty[offReadVersion] = 1, 1 // it has no log
	if m.writer, err = btree.NewWriter(empty[:m.page], m.put); err != nil {
		if errors.Is(err, btree.ErrUnsupported) {
			err = errNoImage
		}
		return nil, err
	}
	if err := os.Remove(m.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if m.file, err = os.OpenFile(m.name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	if _, err = m.file.Write(empty); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// Offsets in the header of a database.
const (
	offPageSize     = 16
	offWriteVersion = 18
	offReadVersion  = 19
)

// readImageRoots finds the trees, if tables and indices are exactly those that an image has, and empty.
func (c *conn) readImageRoots() (*imageRoots, error) {
	const ofOurs = "tbl_name in ('ValidPaths', 'Refs', 'DerivationOutputs')"
	for _, q := range []string{
		"select 1 from ValidPaths limit 1", "select 1 from Refs limit 1", "select 1 from DerivationOutputs limit 1",
		"select 1 from sqlite_master where " + ofOurs + " and type = 'index' limit 1 offset 6",
		"select 1 from sqlite_master where " + ofOurs + " and type = 'trigger' and name not in ('DeleteSelfRefs', 'DeleteSelfRefsViaRealisations')",
		fmt.Sprintf("select 1 from pragma_page_count where page_count > %d", mostEmpty),
	} {
		found := false
		if err := c.rows(q, func(*sqlite.Stmt) error { found = true; return nil }); err != nil || found {
			return nil, errors.Join(err, errNoImage)
		}
	}
	roots := map[string]uint32{}
	err := c.rows("select name, rootpage from sqlite_master where "+ofOurs+" and rootpage > 0", func(s *sqlite.Stmt) error {
		roots[s.ColumnText(0)] = uint32(s.ColumnInt64(1)) //nolint:gosec // a page number
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := &imageRoots{paths: roots["ValidPaths"], refs: roots["Refs"], outputs: roots["DerivationOutputs"]}
	for _, want := range []struct{ table, columns string }{
		{"ValidPaths", "id," + strings.Join(columnNames[:], ",") + ","}, {"Refs", "referrer,reference,"}, {"DerivationOutputs", "drv,id,path,"},
	} {
		columns, err := columnsOf(c, want.table)
		if err != nil || columns != want.columns {
			return nil, errors.Join(err, errNoImage)
		}
	}
	for _, want := range []struct {
		table, columns string
		root           *uint32
	}{
		{"ValidPaths", "path", &r.pathIndex},
		{"Refs", "referrer,reference", &r.refsIndex},
		{"Refs", "referrer", &r.referrerIndex},
		{"Refs", "reference", &r.referenceIndex},
		{"DerivationOutputs", "drv,id", &r.outputsIndex},
		{"DerivationOutputs", "path", &r.outputPathIndex},
	} {
		name, err := indexOf(c, want.table, want.columns)
		if err != nil {
			return nil, err
		}
		*want.root = roots[name] // 0 is none
	}
	return r, nil
}

// ofEmptyTrees looks in a database whether these are roots of trees without anything, and gives the size of its pages.
func (r *imageRoots) ofEmptyTrees(db []byte) (size int, err error) {
	if len(db) < 512 {
		return 0, errNoImage
	}
	if size = int(binary.BigEndian.Uint16(db[offPageSize:])); size == 1 {
		size = 65536
	}
	empty := func(root uint32, table bool) bool {
		return root > 1 && size >= 512 && int(root)*size <= len(db) && btree.IsEmpty(db[int(root-1)*size:int(root)*size], table)
	}
	for _, root := range []uint32{r.paths, r.refs, r.outputs} {
		if !empty(root, true) {
			return 0, errNoImage
		}
	}
	for _, root := range []uint32{r.pathIndex, r.refsIndex, r.referrerIndex, r.referenceIndex, r.outputsIndex, r.outputPathIndex} {
		if !empty(root, false) {
			return 0, errNoImage
		}
	}
	return size, nil
}

// put takes a page, and writes what it has when another does not follow.
func (m *image) put(n uint32, page []byte) error {
	if len(m.buf) > 0 && (n != m.start+uint32(len(m.buf)/m.page) || len(m.buf)+m.page > imageBuffer) {
		if err := m.flush(); err != nil {
			return err
		}
	}
	if len(m.buf) == 0 {
		m.start = n
	}
	m.buf = append(m.buf, page...)
	return nil
}

func (m *image) flush() error {
	_, err := m.file.WriteAt(m.buf, int64(m.start-1)*int64(m.page))
	m.buf = m.buf[:0]
	return err
}

// open opens what was filled, with SQLite.
func (m *image) open() (*conn, error) {
	if err := errors.Join(m.writer.Finish(), m.flush()); err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "file", Path: m.name}
	sq, err := sqlite.OpenConn(u.String(), sqlite.OpenURI|sqlite.OpenReadWrite)
	if err != nil {
		return nil, failure{err}
	}
	c := &conn{Conn: sq}
	// It is nobody else's, and worth nothing if we do not come to the end.
	if err := c.script("pragma locking_mode = exclusive", "pragma journal_mode = off", "pragma synchronous = off", "pragma cache_size = "+cacheSizeImage); err != nil {
		_ = sq.Close()
		return nil, err
	}
	return c, nil
}

// cacheSizeImage is for a connection that reads each page once.
const cacheSizeImage = "-1024"

// replace makes a database what an image is, in one transaction. It may have to wait for others, who write.
func (c *conn) replace(ctx context.Context, by *conn) error {
	b, err := sqlite.NewBackup(c.Conn, "main", by.Conn, "main")
	if err != nil {
		return failure{err}
	}
	defer func() { _ = b.Close() }() // undoes what is not complete
	crashpoint.Reached("nixdb: the image of a load was made")
	const pages = 2048 // between two looks at whether it is still wanted
	for more := true; more; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if more, err = b.Step(pages); err != nil && !(more && isBusy(err)) {
			return failure{err}
		}
		if err != nil {
			time.Sleep(time.Millisecond) // somebody without the big lock is writing
		}
	}
	crashpoint.Reached("nixdb: the image of a load was committed")
	return nil
}

// close gives the file back.
func (m *image) close() {
	_ = m.file.Close() // nobody reads it any more
	_ = os.Remove(m.name)
}
