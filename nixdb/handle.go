package nixdb

import (
	"sync/atomic"
	"time"

	"github.com/strata-nix/strata/internal/flock"
)

// handle is one database file as long as it is that file, with the connections to
// it. DB.mu guards it.
type handle struct {
	access  access
	state   fileState   // when it was opened
	at      time.Time   // when state was taken
	lock    *flock.Lock // the big lock, shared; nil when reading only
	readers []*conn     // idle
	writers []*conn     // idle, one at most
	out     int         // connections in use
	spoiled bool        // something is wrong with it: open it anew
	dead    bool        // no longer the DB's; ends with the last connection in use

	// How the file looked when the log was last found to be its own. No lock guards it.
	sound atomic.Pointer[fileState]
}

// fresh tells whether the file under the handle's name is still what the handle
// is about, with nothing changed that SQLite would not notice.
func (h *handle) fresh(file string) bool {
	return !h.spoiled && h.unchanged(file)
}

// unchanged is fresh as far as it can be told without DB.mu.
func (h *handle) unchanged(file string) bool {
	return h.same(file) && (h.access != immutable || h.state.settled(h.at))
}

// same is fresh but for a change that the clock was too coarse to show.
func (h *handle) same(file string) bool {
	if h.access == readWrite {
		return h.ours(file)
	}
	s, err := lookClosely(file)
	switch {
	case err != nil:
		return false
	case h.access == immutable:
		s.logIno = h.state.logIno // one that is empty may come and go
		return s == h.state
	default:
		return s.sameFile(h.state) && s.logged()
	}
}

// ours is same for a database that others write to, too. Whoever puts another one in the
// place of this one, in the same file, writes to that file, see overwritten; as long as
// nobody has, which is nearly always, the log need not be looked at.
func (h *handle) ours(file string) bool {
	now := time.Now()
	s, err := look(file)
	if err != nil || !s.sameFile(h.state) {
		return false
	}
	if was := h.sound.Load(); was != nil && *was == s {
		return true
	}
	_, logIno, err := lookBeside(file + "-wal")
	if err != nil || logIno != h.state.logIno {
		return false
	}
	if s.settled(now) {
		h.sound.Store(&s)
	}
	return true
}

// overwritten tells that another database was put in the place of this one, in the
// same file. As long as there are connections to what was there, SQLite goes on with
// the old log and its index, also on new ones.
func (h *handle) overwritten(file string) bool {
	s, err := lookClosely(file)
	return err == nil && h.access == readWrite && s.sameFile(h.state) && s.logIno != h.state.logIno
}

// take gives an idle connection, nil if there is none.
func (h *handle) take(write bool) *conn {
	list := &h.readers
	if write {
		list = &h.writers
	}
	n := len(*list)
	if n == 0 {
		return nil
	}
	c := (*list)[n-1]
	*list = (*list)[:n-1]
	return c
}

// put takes a connection back, or tells that it is to be closed instead and
// counted out then.
func (h *handle) put(c *conn, write bool) (surplus bool) {
	if h.dead || h.spoiled || c.broken || h.access == withLog {
		// A reader of the log holds a lock that keeps the owner's last connection
		// from emptying the log. It must not lie around.
		return true
	}
	h.out--
	if write {
		h.writers = append(h.writers, c)
	} else {
		h.readers = append(h.readers, c)
	}
	return false
}

// idle takes the idle connections out. The writer comes last, as it is the last
// one to close that writes the log back.
func (h *handle) idle() []*conn {
	list := append(h.readers, h.writers...)
	h.readers, h.writers = nil, nil
	return list
}

// end gives the lock back, if nothing of a dead handle is in use.
func (h *handle) end() {
	if h.dead && h.out == 0 && h.lock != nil {
		_ = h.lock.Close() // nothing was written through it
		h.lock = nil
	}
}
