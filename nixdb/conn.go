package nixdb

import (
	"context"
	"net/url"
	"time"

	"zombiezen.com/go/sqlite"
)

// conn is a connection. One goroutine uses it at a time.
type conn struct {
	*sqlite.Conn
	h      *handle // what it is a connection to
	broken bool    // in no state to be used again
	known  names   // see DB.name
	seen   *view   // nil until it is wanted; see conn.view
	blind  int     // how often there was none to be had
}

// access is how a database file is opened.
type access int

const (
	readWrite access = iota // as Nix does
	immutable               // bytes that nobody changes: no locks, no files beside it
	withLog                 // for reading only, with what is in the log
)

// waitInStep is for how long SQLite itself waits for a lock. The rest of the
// waiting is done between attempts, where it can be canceled.
const waitInStep = 100 * time.Millisecond

// uri spells the file as SQLite wants it. Without a write-ahead log Nix locks by
// a file of its own ("dotfile"), since that is for file systems without locks.
func uri(file string, a access, noWAL bool) string {
	u := url.URL{Scheme: "file", Path: file}
	q := url.Values{}
	switch a {
	case immutable:
		q.Set("immutable", "1")
	case withLog:
		// The -shm file is not written to either.
		q.Set("readonly_shm", "1")
	}
	if noWAL && a != immutable {
		q.Set("vfs", "unix-dotfile")
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// dial opens a connection. With create it makes an empty database if there is
// no file.
func dial(file string, a access, o *Options, create bool) (*conn, error) {
	flags := sqlite.OpenURI | sqlite.OpenReadWrite
	if a != readWrite {
		flags = sqlite.OpenURI | sqlite.OpenReadOnly
	} else if create {
		flags |= sqlite.OpenCreate
	}
	sq, err := sqlite.OpenConn(uri(file, a, o.NoWAL), flags)
	if err != nil {
		return nil, failure{err}
	}
	c := &conn{Conn: sq}
	sq.SetBusyTimeout(waitInStep)
	if err := c.configure(a, o); err != nil {
		_ = sq.Close()
		return nil, err
	}
	return c, nil
}

// Cache sizes in KiB, for PRAGMA cache_size.
const (
	cacheSize     = "-16000"
	cacheSizeLoad = "-32768"
)

// configure makes the settings that Nix makes, and those that are our own affair.
func (c *conn) configure(a access, o *Options) error {
	set := []string{"pragma foreign_keys = 1", "pragma cache_size = " + cacheSize}
	if a != readWrite {
		// The first page is read here, so that what is no database is found out.
		return c.script(append(set, "select count(*) from sqlite_master")...)
	}
	sync := "normal"
	if o.NoSync {
		sync = "off"
	}
	// What a statement would have to take back is noted for each in 64 KiB that are mapped
	// and unmapped, unless temporary things are kept in memory: then it is 1 KiB.
	set = append(set, "pragma synchronous = "+sync, "pragma temp_store = memory")
	if err := c.script(set...); err != nil {
		return err
	}
	mode := "wal"
	if o.NoWAL {
		mode = "truncate"
	}
	have, err := c.text("pragma main.journal_mode")
	if err != nil {
		return err
	}
	if have != mode {
		if err := c.script("pragma main.journal_mode = " + mode); err != nil {
			return err
		}
	}
	if o.NoWAL {
		return nil
	}
	// The log stays, empty, when the last connection closes, so that users who may
	// not write to the directory can open the database in the ordinary way.
	if err := c.script("pragma main.journal_size_limit = 1099511627776", "pragma wal_autocheckpoint = 40000"); err != nil {
		return err
	}
	persistLog(c.Conn)
	return nil
}

// script executes statements that are used once.
func (c *conn) script(statements ...string) error {
	for _, sql := range statements {
		if _, err := c.text(sql); err != nil {
			return err
		}
	}
	return nil
}

// text gives the first column of the last row of a statement that is used once.
func (c *conn) text(sql string) (text string, err error) {
	err = c.rows(sql, func(s *sqlite.Stmt) error { text = s.ColumnText(0); return nil })
	return text, err
}

// rows runs a statement that is used once.
func (c *conn) rows(sql string, row func(*sqlite.Stmt) error) error {
	s, _, err := c.PrepareTransient(sql)
	if err != nil {
		return failure{err}
	}
	err = each(s, func() error { return row(s) })
	_ = s.Finalize() // would say again what each said
	return err
}

// query runs a statement that is kept prepared. bind may be nil.
func (c *conn) query(sql string, bind func(*sqlite.Stmt), row func(*sqlite.Stmt) error) error {
	s, err := c.Prepare(sql)
	if err != nil {
		return failure{err}
	}
	if bind != nil {
		bind(s)
	}
	return each(s, func() error { return row(s) })
}

// exec runs a statement that is kept prepared and gives no rows.
func (c *conn) exec(sql string, bind func(*sqlite.Stmt)) error {
	return c.query(sql, bind, func(*sqlite.Stmt) error { return nil })
}

// each steps through the rows of a statement, and leaves it ready for the next
// use.
func each(s *sqlite.Stmt, row func() error) error {
	for {
		ok, err := s.Step()
		if err != nil {
			return failure{err} // Step has reset it
		}
		if !ok {
			if err := s.Reset(); err != nil {
				return failure{err}
			}
			return nil
		}
		if err := row(); err != nil {
			_ = s.Reset() // would say again what Step said
			return err
		}
	}
}

// transaction runs f between begin and commit; an error undoes it all.
func (c *conn) transaction(begin string, f func(*conn) error) error {
	if err := c.exec(begin, nil); err != nil {
		return err
	}
	return c.settle(f)
}

// inTransaction runs f in a transaction, the one that is under way if there is one.
func (c *conn) inTransaction(f func(*conn) error) error {
	if !c.AutocommitEnabled() {
		return f(c)
	}
	return c.transaction("begin", f)
}

// settle runs f within a transaction that has begun, and ends that.
func (c *conn) settle(f func(*conn) error) error {
	err := f(c)
	if err == nil {
		if err = c.exec("commit", nil); err == nil {
			return nil
		}
	}
	// SQLite may have ended the transaction itself, as on a full disk.
	if !c.AutocommitEnabled() {
		c.broken = c.exec("rollback", nil) != nil
	}
	return err
}

// interruptible makes the end of ctx interrupt statements that run long, until the
// returned function is called.
func (c *conn) interruptible(ctx context.Context) (end func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	c.SetInterrupt(ctx.Done())
	return func() { c.SetInterrupt(nil) }
}
