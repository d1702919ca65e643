package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/storepath"
)

// CacheOptions say where objects are kept, and how many.
type CacheOptions struct {
	// Dir holds everything. It is made if it is not there. All stacks and mounts of a
	// machine can share one.
	Dir string
	// StoreDir is the store directory of all who share the cache; "": the default one.
	StoreDir storepath.Dir
	// Pool, if not "", is the directory that Dir is in together with other caches that share
	// the bounds: they hold for all of them.
	Pool string
	// MaxBytes is how much the objects may take on disk; 0: as much as there is.
	MaxBytes int64
	// MaxAge is how long an object stays that nobody uses; 0: as long as there is room.
	MaxAge time.Duration
	// MinFree is how many bytes are to stay free on the file system.
	MinFree int64
	// Untouched leaves what killed processes left as it is, to be looked at.
	Untouched bool
	// Log gets what is out of order; nil: nobody does.
	Log *slog.Logger
}

// Cache is a directory of complete, verified objects. Any number of processes may
// have it open at once.
type Cache struct {
	o       CacheOptions
	objects *os.File      // the directory of objects, to open them relative to
	full    chan struct{} // it may have become too large

	mu     sync.Mutex
	staged map[storepath.Path]*stage // verified objects that are yet to be published
	used   map[storepath.Path]time.Time

	filing [16]sync.Mutex // of who writes files, by the first byte of the digest
	along  along
	way    clearing
}

// Places in a cache; doc/formats/lazy-cache.md.
const (
	versionFile = "strata-lazy-cache"
	version     = "1\n"
	objectsDir  = "objects"
	infoDir     = "info"
	treesDir    = "trees"
	listingsDir = "listings"
	pinsDir     = "pins"
	fetchDir    = "fetch"
	tmpDir      = "tmp"
	usersDir    = "users"
	evictLock   = "evict.lock" // in the pool, as is tallyFile
)

// ErrCacheVersion: the directory is a cache of another version, or none at all.
var ErrCacheVersion = errors.New("not a cache of lazy objects that can be used")

// OpenCache opens a cache, and takes away what processes left behind that were killed. The
// caller closes it.
func OpenCache(o CacheOptions) (_ *Cache, err error) {
	if o.StoreDir == "" {
		o.StoreDir = storepath.DefaultDir
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("cache of lazy objects: '%s' is not an absolute path", o.Dir)
	}
	c := &Cache{o: o, staged: map[storepath.Path]*stage{}, used: map[storepath.Path]time.Time{}, full: make(chan struct{}, 1)}
	if err := c.makePlaces(); err != nil {
		return nil, fmt.Errorf("cache of lazy objects: %w", err)
	}
	if c.objects, err = os.Open(c.at(objectsDir)); err != nil {
		return nil, fmt.Errorf("cache of lazy objects: %w", err)
	}
	if !o.Untouched {
		c.sweepStages()
	}
	return c, nil
}

func (c *Cache) makePlaces() error {
	if err := os.MkdirAll(c.o.Dir, 0o755); err != nil {
		return err
	}
	text, err := os.ReadFile(c.at(versionFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		entries, err := os.ReadDir(c.o.Dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !ours(e.Name()) { // another process may just be making it
				return fmt.Errorf("%w: '%s' has '%s' in it and no '%s'", ErrCacheVersion, c.o.Dir, e.Name(), versionFile)
			}
		}
	case err != nil:
		return err
	case string(text) != version:
		return fmt.Errorf("%w: '%s' is of version '%.20s'", ErrCacheVersion, c.o.Dir, strings.TrimSpace(string(text)))
	}
	for _, dir := range []string{objectsDir, infoDir, treesDir, listingsDir, pinsDir, fetchDir, tmpDir, usersDir, filesDir, partialDir, profilesDir} {
		if err := os.Mkdir(c.at(dir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if text == nil {
		return replaceFile(c.at(versionFile), []byte(version))
	}
	return nil
}

// ours tells whether a name is one of a cache.
func ours(name string) bool {
	switch name {
	case objectsDir, infoDir, treesDir, listingsDir, pinsDir, fetchDir, tmpDir, usersDir, filesDir, partialDir, profilesDir, profilesLock, evictLock, tallyFile:
		return true
	}
	return strings.HasPrefix(name, versionFile)
}

// at is the path of something in the cache.
func (c *Cache) at(names ...string) string {
	return filepath.Join(append([]string{c.o.Dir}, names...)...)
}

// Dir is where the cache is.
func (c *Cache) Dir() string { return c.o.Dir }

// Objects is the directory of complete objects, named as in a store: it can be
// a lower of an overlay above a mount that serves the same objects.
func (c *Cache) Objects() string { return c.at(objectsDir) }

// Close gives everything back. No call may be under way.
func (c *Cache) Close() error { return errors.Join(c.endNotes(), c.objects.Close()) }

// Has tells which of paths are here, complete and verified.
func (c *Cache) Has(p storepath.Path) bool {
	var st unix.Stat_t
	if unix.Fstatat(int(c.objects.Fd()), p.Base(), &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return true
	}
	_, staged := c.stagedAt(p)
	return staged
}

// errAbsent: the object is not here.
var errAbsent = errors.New("object is not in the cache")

// open opens a file of an object; "" is the object itself. errAbsent says that the object is not here;
// that the file is not in it is fs.ErrNotExist.
func (c *Cache) open(p storepath.Path, file string) (fd int, err error) {
	name := p.Base()
	if file != "" {
		name += "/" + file
	}
	for range 3 { // it may be evicted and come again meanwhile
		fd, err = openBeneath(int(c.objects.Fd()), name)
		if err == nil || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return fd, err
		}
		if stage, ok := c.stagedAt(p); ok {
			dir, err := unix.Open(stage, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err == nil {
				fd, err = openBeneath(dir, name)
				_ = unix.Close(dir)
			}
			if err == nil {
				return fd, nil
			}
			continue // it has been published since
		}
		if !c.Has(p) {
			return -1, errAbsent
		}
	}
	return -1, err
}

// openBeneath opens a file to read that is in a directory, by no symlink.
func openBeneath(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// stagedAt is the directory in which an object is that is verified and not
// published yet.
func (c *Cache) stagedAt(p storepath.Path) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.staged[p]
	if st == nil {
		return "", false
	}
	return st.dir, true
}

// sweepStages removes what killed processes left half-made.
func (c *Cache) sweepStages() {
	entries, err := os.ReadDir(c.at(tmpDir))
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := c.at(tmpDir, e.Name())
		l, err := flock.Open(filepath.Join(dir, stageLock))
		if err != nil {
			_ = os.Remove(dir) // it is just being made, or was
			continue
		}
		if ok, err := l.Try(flock.Exclusive); ok && err == nil {
			_ = c.removeObjects(context.Background(), dir)
			c.uncounted()
		}
		_ = l.Close()
	}
}

// replaceFile writes a file so that it is there whole, or as it was.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of what was not renamed
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// syncDir makes renames into a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
