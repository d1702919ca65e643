package nar

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// RestoreOptions says how Restore unpacks. The zero value is what a store
// wants.
type RestoreOptions struct {
	// KeepMetadata leaves modes to the umask and times to the clock, as
	// `nix-store --restore` does, rather than making them canonical.
	KeepMetadata bool
	// Sync makes Restore return only when the tree is on disk, as upstream's
	// setting fsync-store-paths. The entry in the parent directory is not
	// included.
	Sync bool
}

// Stats counts what was unpacked.
type Stats struct {
	Files, Directories, Symlinks int64
	// Bytes is the sum of the sizes of the files.
	Bytes int64
	// NarSize is the size of the archive.
	NarSize int64
}

// Restore unpacks one archive from r as path, whose parent directory exists and
// which does not exist itself. It takes exactly the archive's bytes from r (see
// the package comment).
//
// The archive cannot reach outside: objects are only ever created, exclusively,
// and relative to a directory that was itself created by this call and is held
// open, so no name, symlink or concurrent renaming leads anywhere else. Memory
// and disk space stay proportional to what was received.
//
// The metadata is canonical: modes 0444, 0555 for executables and directories,
// modification time 1 s after the epoch, and no ACLs inherited from the parent.
// Directories have mode 0700 until they are complete. The owner is the
// process's effective user.
//
// After an error, what was unpacked remains; RemoveTree removes it. Invalid
// archives give a *FormatError, others name the path and wrap the errno (for
// example fs.ErrExist if there is something at path) or ctx's cause.
func Restore(ctx context.Context, r io.Reader, path string, opts RestoreOptions) (Stats, error) {
	parent, name, err := splitPath(path)
	if err != nil {
		return Stats{}, err
	}
	defer parent.Close()
	return RestoreAt(ctx, r, parent, name, opts)
}

// RestoreAt is Restore for a new entry of an open directory.
func RestoreAt(ctx context.Context, r io.Reader, dir *os.File, name string, opts RestoreOptions) (Stats, error) {
	return restoreAt(ctx, r, dir, name, &maker{keep: opts.KeepMetadata, sync: opts.Sync})
}

func restoreAt(ctx context.Context, r io.Reader, dir *os.File, name string, m *maker) (Stats, error) {
	return atDir(dir, name, func(dirfd int, path string) (Stats, error) {
		stats, err := restore(ctx, r, dirfd, name, path, m)
		if err == nil && m.sync {
			err = syncTree(dirfd, name, path)
		}
		return stats, err
	})
}

func restore(ctx context.Context, src io.Reader, dirfd int, name, path string, m *maker) (Stats, error) {
	if err := context.Cause(ctx); err != nil {
		return Stats{}, err
	}
	t := &restorer{ctx: ctx, r: NewReader(src), name: name, crew: crew{maker: m}}
	// What the archive's root is made in: it has no parent, and is neither
	// finished nor closed.
	t.dirs[0] = &restoreDir{fd: dirfd, path: path[:len(path)-len(name)]}
	t.dirs[0].refs.Store(1)
	t.crew.fail(t.unpack()) // after an error nothing more is made
	for ; t.open > 0; t.open-- {
		t.crew.release(t.dirs[t.open])
	}
	err := t.crew.wait()
	t.stats.NarSize = t.r.Offset()
	return t.stats, err
}

// A restorer reads an archive and makes directories and large files. Small
// files and symlinks it gathers for its crew, since making a file costs far
// more than reading its piece of the archive.
type restorer struct {
	ctx   context.Context
	r     *Reader
	name  string // of the root
	stats Stats
	crew  crew
	dirs  [MaxDepth + 1]*restoreDir // dirs[d] holds the objects at depth d
	open  int                       // the last of dirs in use
}

// smallFile is the size up to which files are left to the crew.
const smallFile = 64 << 10

func (t *restorer) unpack() error {
	for {
		if err := t.r.next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := t.object(&t.r.cur); err != nil {
			return err
		}
	}
}

func (t *restorer) object(e *node) error {
	for ; t.open > e.depth; t.open-- {
		t.crew.release(t.dirs[t.open])
	}
	dir, name := t.dirs[e.depth], t.name
	if e.depth > 0 {
		name = string(t.r.names[e.depth].bytes())
	}
	switch e.typ {
	case TypeDirectory:
		t.stats.Directories++
		sub, err := t.crew.maker.directory(dir, name)
		if err != nil {
			return err
		}
		t.open++
		t.dirs[t.open] = sub
		return context.Cause(t.ctx)
	case TypeSymlink:
		t.stats.Symlinks++
		job, err := t.crew.job(t.ctx, dir, name, 0)
		if err != nil {
			return err
		}
		job.target = string(e.target)
	case TypeRegular:
		t.stats.Files++
		t.stats.Bytes += e.size
		if e.size > smallFile {
			return t.largeFile(dir, name, e.executable)
		}
		job, err := t.crew.job(t.ctx, dir, name, int(e.size))
		if err != nil {
			return err
		}
		job.executable = e.executable
		_, err = io.ReadFull(t.r, job.data)
		return err
	}
	return nil
}

// largeFile makes a file whose contents do not go through the crew.
func (t *restorer) largeFile(dir *restoreDir, name string, executable bool) error {
	fd, err := t.crew.maker.create(dir, name, executable)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	w := &fdWriter{t.ctx, fd, dir, name}
	if _, err := t.r.WriteTo(w); err != nil {
		return err
	}
	return dir.fail("write", name, t.crew.maker.finish(fd, executable))
}

// An fdWriter writes to a file that is being restored.
type fdWriter struct {
	ctx  context.Context
	fd   int
	dir  *restoreDir
	name string
}

func (w *fdWriter) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	if err := fwrite(w.fd, p); err != nil {
		return 0, w.dir.fail("write", w.name, err)
	}
	return len(p), nil
}
