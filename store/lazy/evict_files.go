package lazy

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/storepath"
)

// How long ago files were read that go for want of room, tried one after the other. File systems note the time of
// a reading to within a day.
var filesUnread = []time.Duration{7 * 24 * time.Hour, 25 * time.Hour, justUsed}

// files takes away files that no complete object has: those of the objects that are to go, those that are too old, and as
// many as are needed if there is no room. They are not in use: who reads one has it open, or fetches it again.
func (e *eviction) files(ctx context.Context, want int64) error {
	now := time.Now()
	for _, c := range e.members {
		var freed int64
		switch {
		case e.o.All:
			c.sweepPartial(ctx, now)
			freed, _ = c.sweepFiles(ctx, nil, true, time.Time{})
		case len(e.o.Paths) > 0:
			for _, p := range e.o.Paths {
				freed += c.dropPartial(p)
			}
		default:
			freed = c.unreadFiles(ctx, now, want-e.freedFiles, e.c.o.MaxAge)
		}
		e.freedFiles += freed
		e.total.Bytes -= freed
		e.out.Bytes += freed
	}
	if e.freedFiles > 0 {
		e.c.added(-e.freedFiles)
	}
	return ctx.Err()
}

// unreadFiles takes away what the bounds want gone.
func (c *Cache) unreadFiles(ctx context.Context, now time.Time, want int64, maxAge time.Duration) (freed int64) {
	sweep := func(age time.Duration) {
		c.sweepPartial(ctx, now.Add(-age))
		some, _ := c.sweepFiles(ctx, nil, false, now.Add(-age))
		freed += some
	}
	if maxAge > 0 {
		sweep(maxAge)
	}
	for _, age := range filesUnread {
		if freed >= want || want <= 0 {
			break
		}
		sweep(age)
	}
	return freed
}

// dropPartial takes away what is here of an object that is not complete.
func (c *Cache) dropPartial(p storepath.Path) (freed int64) {
	name := c.at(partialDir, p.Base())
	data, err := readSmall(name, fileindex.MaxSize)
	if err != nil {
		return 0
	}
	_ = os.Remove(name)
	signed, err := fileindex.Parse(c.o.StoreDir, name, data)
	if err != nil {
		return 0
	}
	x, err := signed.Decode()
	if err != nil {
		return 0
	}
	for n := range x.Contents.Tree().Len() {
		if _, ok := x.Contents.FileDigest(n); ok {
			freed += c.dropAlone(c.fileName(x.Contents, n)) + c.dropAlone(c.fileName(x.Contents, n)+partSuffix)
		}
	}
	return freed
}

// dropAlone removes a file that no complete object has.
func (c *Cache) dropAlone(name string) int64 {
	var st unix.Stat_t
	if unix.Lstat(name, &st) != nil || st.Nlink > 1 || os.Remove(name) != nil {
		return 0
	}
	return st.Blocks * 512
}
