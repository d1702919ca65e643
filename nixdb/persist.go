package nixdb

import (
	"reflect"
	"runtime"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
	"zombiezen.com/go/sqlite"
)

// persistLog asks SQLite to keep the (then empty) -wal and -shm files when the
// last connection closes, as Nix does. The driver has no call for it, so the
// handle is taken out of its private field; where there is no such field, the
// files go away at the last close, which only users without write permission
// will notice.
func persistLog(c *sqlite.Conn) {
	field := reflect.ValueOf(c).Elem().FieldByName("conn")
	if !field.IsValid() || field.Kind() != reflect.Uintptr || field.Uint() == 0 {
		return
	}
	tls := libc.NewTLS()
	defer tls.Close()
	enable := int32(1)
	var pin runtime.Pinner
	pin.Pin(&enable)
	defer pin.Unpin()
	lib.Xsqlite3_file_control(tls, uintptr(field.Uint()), 0, lib.SQLITE_FCNTL_PERSIST_WAL, uintptr(unsafe.Pointer(&enable)))
}
