package nixdb

import (
	"reflect"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
	"zombiezen.com/go/sqlite"
)

// persistLog asks SQLite to keep the (then empty) -wal and -shm files when the
// last connection closes, as Nix does. Where it cannot be asked, the files go away
// at the last close, which only users without write permission will notice.
func persistLog(c *sqlite.Conn) {
	withPointer(c, func(tls *libc.TLS, db uintptr) {
		// The flag is an int in C's memory: bytes 1, 0, 0 and the end of the string.
		enable, err := libc.CString("\x01\x00\x00")
		if err != nil {
			return
		}
		defer libc.Xfree(tls, enable)
		lib.Xsqlite3_file_control(tls, db, 0, lib.SQLITE_FCNTL_PERSIST_WAL, enable)
	})
}

// forsakeLog asks SQLite not to write the log back when the connection closes. The
// log is of a database that is not there any more, and would go into the one that
// has taken its place.
func forsakeLog(c *sqlite.Conn) {
	withPointer(c, func(tls *libc.TLS, db uintptr) {
		args := libc.NewVaList(int32(1), uintptr(0))
		if args == 0 {
			return
		}
		defer libc.Xfree(tls, args)
		lib.Xsqlite3_db_config(tls, db, lib.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, args)
	})
}

// withPointer lends the handle of SQLite itself, for what the driver has no call
// for. It is taken out of a private field; where there is no such field, nothing
// happens.
func withPointer(c *sqlite.Conn, f func(tls *libc.TLS, db uintptr)) {
	field := reflect.ValueOf(c).Elem().FieldByName("conn")
	if !field.IsValid() || field.Kind() != reflect.Uintptr || field.Uint() == 0 {
		return
	}
	tls := libc.NewTLS()
	defer tls.Close()
	f(tls, uintptr(field.Uint()))
}
