package nixdb

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// infoColumns are the columns of ValidPaths that scanInfo reads, in its order.
const infoColumns = "id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca"

// infoRow is a row of infoColumns. What is null there is zero here.
type infoRow struct {
	id                              int64
	path, hash, deriver, sigs, ca   string
	registered, narSize, isUltimate int64
}

// scanInfo makes a path info, but for the references, of a row of infoColumns.
func (db *DB) scanInfo(s *sqlite.Stmt) (id int64, info *store.PathInfo, err error) {
	r := infoRow{
		id: s.ColumnInt64(0), path: s.ColumnText(1), hash: s.ColumnText(2), registered: s.ColumnInt64(3), deriver: s.ColumnText(4),
		narSize: s.ColumnInt64(5), isUltimate: s.ColumnInt64(6), sigs: s.ColumnText(7), ca: s.ColumnText(8),
	}
	info, err = db.parseInfo(&r)
	return r.id, info, err
}

// parseInfo understands a row.
func (db *DB) parseInfo(r *infoRow) (info *store.PathInfo, err error) {
	damaged := func(err error) error { return &RowError{Table: "ValidPaths", Key: r.path, Err: err} }
	info = &store.PathInfo{Registered: r.registered, Ultimate: r.isUltimate == 1}
	if info.Path, err = db.o.Dir.Parse(r.path); err != nil {
		return nil, &RowError{Table: "ValidPaths", Key: rowKey(r.id)(), Err: err}
	}
	if info.NarHash, err = nixhash.Parse(r.hash); err != nil {
		return nil, damaged(fmt.Errorf("hash: %w", err))
	}
	if r.deriver != "" {
		if info.Deriver, err = db.o.Dir.Parse(r.deriver); err != nil {
			return nil, damaged(fmt.Errorf("deriver: %w", err))
		}
	}
	if r.narSize < 0 {
		return nil, damaged(fmt.Errorf("narSize is %d", r.narSize))
	}
	info.NarSize = uint64(r.narSize)
	if info.Signatures, err = parseSignatures(r.sigs); err != nil {
		return nil, damaged(err)
	}
	if info.CA, err = storepath.ParseContentAddress(r.ca); err != nil {
		return nil, damaged(err)
	}
	return info, nil
}

// scanPath reads a path in the first column, of the row of a table that is found
// by key.
func (db *DB) scanPath(s *sqlite.Stmt, table string, key func() string) (storepath.Path, error) {
	p, err := db.o.Dir.Parse(s.ColumnText(0))
	if err != nil {
		return p, &RowError{Table: table, Key: key(), Err: err}
	}
	return p, nil
}

// rowKey is the key of a row that is known by its number.
func rowKey(id int64) func() string {
	return func() string { return "id " + strconv.FormatInt(id, 10) }
}

// parseSignatures reads the column sigs: texts with spaces between.
func parseSignatures(text string) ([]store.Signature, error) {
	if text == "" {
		return nil, nil
	}
	var list []store.Signature
	for field := range strings.FieldsSeq(text) {
		sig, err := store.ParseSignature(field)
		if err != nil {
			return nil, err
		}
		list = append(list, sig)
	}
	return sortSignatures(list), nil
}

func sortSignatures(list []store.Signature) []store.Signature {
	slices.Sort(list)
	return slices.Compact(list)
}

func printSignatures(list []store.Signature) string {
	var b strings.Builder
	for i, sig := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(sig))
	}
	return b.String()
}

// A pathRow is what goes into a row of ValidPaths.
type pathRow struct {
	id   int64
	info *store.PathInfo
}

const (
	pathRowInto    = "insert or fail into ValidPaths (id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca) values "
	pathRowColumns = 9
)

// bind sets the parameters from the one after at.
func (r pathRow) bind(s *sqlite.Stmt, at int, dir storepath.Dir) {
	i := r.info
	s.BindInt64(at+1, r.id)
	s.BindText(at+2, dir.Print(i.Path))
	s.BindText(at+3, i.NarHash.Text(nixhash.Base16))
	registered := i.Registered
	if registered == 0 {
		registered = time.Now().Unix()
	}
	s.BindInt64(at+4, registered)
	if i.Deriver.IsZero() {
		s.BindNull(at + 5)
	} else {
		s.BindText(at+5, dir.Print(i.Deriver))
	}
	bindMutable(s, at+6, i)
}

// bindMutable sets the four columns from narSize on. What is not known is null.
func bindMutable(s *sqlite.Stmt, at int, i *store.PathInfo) {
	if i.NarSize == 0 {
		s.BindNull(at)
	} else {
		s.BindInt64(at, int64(i.NarSize))
	}
	if i.Ultimate {
		s.BindInt64(at+1, 1)
	} else {
		s.BindNull(at + 1)
	}
	bindText(s, at+2, printSignatures(i.Signatures))
	bindText(s, at+3, i.CA.String())
}

// bindText sets a text, or null for an empty one.
func bindText(s *sqlite.Stmt, at int, text string) {
	if text == "" {
		s.BindNull(at)
		return
	}
	s.BindText(at, text)
}
