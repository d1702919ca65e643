package diskcache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// version is the user_version of the file; another schema gets another file name
// as well.
const version = 1

// schema: fetched is in seconds since 1970, text is null where the cache had
// nothing.
const schema = `
create table if not exists Caches (
    id       integer primary key,
    uri      text not null,
    dir      text not null,
    info     text not null,
    fetched  integer not null,
    unique (uri, dir)
);
create table if not exists NarInfos (
    cache    integer not null references Caches(id) on delete cascade,
    hash     text not null,
    text     text,
    fetched  integer not null,
    primary key (cache, hash)
) without rowid;
create table if not exists Realisations (
    cache    integer not null references Caches(id) on delete cascade,
    id       text not null,
    text     text,
    fetched  integer not null,
    primary key (cache, id)
) without rowid;
create table if not exists LastPurge (
    one      integer primary key check (one = 1),
    at       integer not null
);
`

// patience is how long somebody else may hold the file. What cannot be remembered
// in that time is asked for again another time.
const patience = 5 * time.Second

// handle is the open file. One goroutine uses it at a time.
type handle struct {
	conn     *sqlite.Conn
	file     os.FileInfo // which one it is
	offUntil time.Time   // when it is worth trying again after a failure
}

// ready opens the file, unless that is done. Users delete it under running
// daemons, so each time it is looked whether it is still there.
func (h *handle) ready(o Options) error {
	if time.Now().Before(h.offUntil) {
		return errOff
	}
	if h.conn != nil {
		if fi, err := os.Stat(o.File); err == nil && os.SameFile(fi, h.file) {
			return nil
		}
		if err := h.close(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(o.File), 0o700); err != nil {
		return err
	}
	conn, err := sqlite.OpenConn(o.File, sqlite.OpenReadWrite|sqlite.OpenCreate|sqlite.OpenWAL)
	if err != nil {
		return err
	}
	h.conn = conn
	if err = h.prepare(o.TTL); err == nil {
		h.file, err = os.Stat(o.File)
	}
	if err != nil {
		return errors.Join(err, h.close())
	}
	return nil
}

func (h *handle) close() error {
	if h.conn == nil {
		return nil
	}
	conn := h.conn
	h.conn = nil
	return conn.Close()
}

// prepare makes the tables if need be, and throws out what is old now and then.
func (h *handle) prepare(ttl TTL) error {
	h.conn.SetBusyTimeout(patience)
	// In WAL mode this loses the last answers in a power failure, not the file.
	for _, sql := range []string{"pragma synchronous = normal", "pragma foreign_keys = on"} {
		if err := h.exec(sql, nil); err != nil {
			return err
		}
	}
	have, err := h.number("pragma user_version")
	if err == nil && have == 0 {
		have, err = version, h.transaction(func() error {
			return sqlitex.ExecuteScript(h.conn, schema+fmt.Sprintf("pragma user_version = %d;", version), nil)
		})
	}
	if err != nil {
		return err
	}
	if have != version {
		return fmt.Errorf("it has version %d instead of %d", have, version)
	}
	return h.purge(ttl, time.Now())
}

// number is the first column of the last row of a query, 0 if it has none.
func (h *handle) number(sql string, args ...any) (n int64, err error) {
	err = h.exec(sql, func(s *sqlite.Stmt) error { n = s.ColumnInt64(0); return nil }, args...)
	return n, err
}

// exec runs a statement that is kept prepared. row may be nil.
func (h *handle) exec(sql string, row func(*sqlite.Stmt) error, args ...any) error {
	return sqlitex.Execute(h.conn, sql, &sqlitex.ExecOptions{Args: args, ResultFunc: row})
}

// transaction runs f as a whole or not at all.
func (h *handle) transaction(f func() error) (err error) {
	end, err := sqlitex.ImmediateTransaction(h.conn)
	if err != nil {
		return err
	}
	defer end(&err)
	return f()
}

// What is kept at least, so that a --refresh does not throw away everything. The
// first two are Nix's.
const (
	keepNegative = time.Hour
	keepPositive = 30 * 24 * time.Hour
	keepCache    = 90 * 24 * time.Hour
	purgeEvery   = 24 * time.Hour
)

// purge throws out what nobody would believe any more, once a day.
func (h *handle) purge(ttl TTL, now time.Time) error {
	last, err := h.number("select at from LastPurge")
	if err != nil || last > now.Add(-purgeEvery).Unix() && last <= now.Unix() {
		return err
	}
	before := func(keep, ttl time.Duration) int64 { return now.Add(-max(keep, ttl)).Unix() }
	return h.transaction(func() error {
		for _, table := range []string{"NarInfos", "Realisations"} {
			err := h.exec("delete from "+table+" where fetched < case when text is null then ? else ? end", nil,
				before(keepNegative, ttl.Negative), before(keepPositive, ttl.Positive))
			if err != nil {
				return err
			}
		}
		if err := h.exec("delete from Caches where fetched < ?", nil, before(keepCache, max(ttl.Meta, ttl.Positive))); err != nil {
			return err
		}
		return h.exec("insert or replace into LastPurge values (1, ?)", nil, now.Unix())
	})
}

// busy tells that somebody else had the file for too long.
func busy(err error) bool {
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultBusy, sqlite.ResultLocked, sqlite.ResultProtocol, sqlite.ResultInterrupt:
		return true
	}
	return false
}
