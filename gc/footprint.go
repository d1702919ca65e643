package gc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// footprint is what an object takes of the disk.
type footprint struct {
	own    uint64       // bytes of what has one name
	shared []sharedFile // the rest, once for each name
}

type sharedFile struct {
	id    inode
	names uint64 // how many it has, here or elsewhere
	bytes uint64
}

type inode struct{ dev, ino uint64 }

// measurer takes footprints of entries of a directory. It changes nothing. It is for
// one goroutine at a time.
type measurer struct {
	ctx  context.Context //nolint:containedctx // lives as long as one call
	fp   footprint
	bufs [][]byte // one for each level
}

// maxMeasureDepth bounds how many directories are open at once. What lies deeper,
// in trees that somebody made to annoy, is taken for nothing.
const maxMeasureDepth = 128

// entry adds what is at a name. What cannot be looked at is taken for nothing.
func (m *measurer) entry(dirfd int, name string, depth int) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil
	}
	bytes := uint64(st.Blocks) * 512 //nolint:gosec // a count
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		m.fp.own += bytes
		return m.directory(dirfd, name, depth)
	case st.Nlink == 1:
		m.fp.own += bytes
	default:
		//nolint:unconvert // narrower on some machines
		m.fp.shared = append(m.fp.shared, sharedFile{inode{st.Dev, st.Ino}, uint64(st.Nlink), bytes})
	}
	return nil
}

func (m *measurer) directory(dirfd int, name string, depth int) error {
	if depth >= maxMeasureDepth {
		return nil
	}
	fd, err := openDir(dirfd, name, unix.O_NOFOLLOW)
	if err != nil {
		return nil //nolint:nilerr // see entry
	}
	defer func() { _ = unix.Close(fd) }()
	if depth == len(m.bufs) {
		m.bufs = append(m.bufs, make([]byte, direntBuffer))
	}
	err = readDirents(fd, m.bufs[depth], func(e dirent) error { return m.entry(fd, string(e.name), depth+1) })
	if m.ctx.Err() != nil {
		return err
	}
	return nil
}

// measure takes the footprints of entries of a directory, several at once.
func measure(ctx context.Context, dir string, names []string) ([]footprint, error) {
	at, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = at.Close() }()
	out := make([]footprint, len(names))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(names), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			m := measurer{ctx: ctx}
			for {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return
				}
				m.fp = footprint{}
				if m.entry(int(at.Fd()), names[i], 0) != nil {
					return
				}
				out[i] = m.fp
			}
		})
	}
	wg.Wait()
	return out, ctx.Err()
}

// ledger knows what deleting one object after the other gives back: a file with
// several names only with the last of them.
type ledger struct {
	gone  map[inode]uint64 // names that are gone
	links []uint64         // inodes with a name among the links of an optimised store, sorted
}

// newLedger reads the directory of links, "" for none.
func newLedger(ctx context.Context, links string) (*ledger, error) {
	l := &ledger{gone: map[inode]uint64{}}
	if links == "" {
		return l, nil
	}
	dir, err := os.Open(links)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	err = readDirents(int(dir.Fd()), nil, func(e dirent) error {
		l.links = append(l.links, e.ino)
		return ctx.Err()
	})
	slices.Sort(l.links)
	return l, err
}

// spend tells how many bytes leave the disk if an object goes now: own with the
// object, linked when the links are dropped that are then the last names of files.
func (l *ledger) spend(f footprint) (own, linked uint64) {
	own = f.own
	for _, s := range f.shared {
		gone := l.gone[s.id] + 1
		_, isLinked := slices.BinarySearch(l.links, s.id.ino)
		switch left := s.names - min(gone, s.names); {
		case left == 0:
			own += s.bytes
		case left == 1 && isLinked:
			linked += s.bytes
		default:
			l.gone[s.id] = gone
			continue
		}
		delete(l.gone, s.id)
	}
	return own, linked
}
