package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// ReadTempRoots reads the temporary roots of all processes: the files of the
// directory temproots, zero-terminated full paths each. A file whose owner is
// gone, so that its lock can be had, is removed.
func ReadTempRoots(ctx context.Context, tempRootsDir string, dir storepath.Dir) (store.Roots, error) {
	entries, err := os.ReadDir(tempRootsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return store.Roots{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading temporary roots: %w", err)
	}
	roots := store.Roots{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			continue
		}
		if err := readTempRootsFile(ctx, filepath.Join(tempRootsDir, e.Name()), dir, roots); err != nil {
			return nil, fmt.Errorf("reading temporary roots: %w", err)
		}
	}
	return roots, nil
}

func readTempRootsFile(ctx context.Context, path string, dir storepath.Dir, roots store.Roots) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		activity.Logf(ctx, activity.Info, "removing stale temporary roots file '%s'", path)
		_ = os.Remove(path)
		_, err := f.WriteAt([]byte("d"), 0)
		return err
	case !errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("locking %s: %w", path, err)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	pid, _, _ := strings.Cut(filepath.Base(path), ".")
	for {
		text, rest, ok := bytes.Cut(data, []byte{0})
		if !ok {
			return nil // what is not terminated is still being written, and not acknowledged
		}
		if p, err := dir.Parse(string(text)); err == nil {
			roots[p] = append(roots[p], "{temp:"+pid+"}")
		} else {
			activity.Warnf(ctx, "temporary roots file '%s': %v", path, err)
		}
		data = rest
	}
}

// TempRootsFile is a file of temporary roots of ours. It comes into being with
// its first root. It is for one goroutine at a time.
type TempRootsFile struct {
	stateDir string
	name     string
	dir      storepath.Dir
	file     *flock.Lock
	size     int64 // of what is complete in file
	gcLock   *flock.Lock
	held     *flock.Lock // see Hold
	gc       collector
	have     storepath.Set
}

// NewTempRootsFile prepares a file of temporary roots. name begins with the
// process id, and is nobody else's.
func NewTempRootsFile(stateDir, name string, dir storepath.Dir) *TempRootsFile {
	return &TempRootsFile{stateDir: stateDir, name: name, dir: dir, gc: collector{stateDir: stateDir}, have: storepath.Set{}}
}

// Add makes roots of the paths, and returns when no collection can take them any
// more: none is running, or the one that runs has been told.
func (t *TempRootsFile) Add(ctx context.Context, paths []storepath.Path) error {
	fresh := make([]storepath.Path, 0, len(paths))
	for _, p := range paths {
		if !t.have.Has(p) {
			fresh = append(fresh, p)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := t.open(ctx); err != nil {
		return fmt.Errorf("adding temporary roots: %w", err)
	}
	var text bytes.Buffer
	for _, p := range fresh {
		text.WriteString(t.dir.Print(p))
		text.WriteByte(0)
	}
	if err := t.announce(ctx, fresh, text.Bytes()); err != nil {
		return fmt.Errorf("adding temporary roots: %w", err)
	}
	for _, p := range fresh {
		t.have.Add(p)
	}
	return nil
}

func (t *TempRootsFile) open(ctx context.Context) (err error) {
	if t.file != nil {
		// The state directory may have been deleted and made anew.
		if same, err := t.file.InPlace(); same || err != nil {
			return err
		}
		t.closeFiles()
		t.have = storepath.Set{}
	}
	dir := filepath.Join(t.stateDir, "temproots")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if t.gcLock, err = flock.Open(filepath.Join(t.stateDir, "gc.lock")); err != nil {
		return err
	}
	path := filepath.Join(dir, t.name)
	// A file that is there is of a dead process that had our number.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	t.file, err = flock.OpenLive(ctx, path, nil)
	t.size = 0
	return err
}

// announce writes the roots down under the shared lock, or tells the collection
// that holds it.
func (t *TempRootsFile) announce(ctx context.Context, paths []storepath.Path, text []byte) error {
	for {
		free, err := t.gcLock.Try(flock.Shared)
		if err != nil {
			return err
		}
		if !free {
			told, err := t.gc.tell(ctx, t.dir, paths)
			if err != nil {
				return err
			}
			if !told {
				continue // it has ended, or has not begun to listen
			}
		}
		err = t.write(text)
		if free {
			err = errors.Join(err, t.gcLock.Unlock())
		}
		return err
	}
}

// write appends whole roots or nothing: on a full disk a part would spoil the root
// that comes after it.
func (t *TempRootsFile) write(text []byte) error {
	n, err := t.file.File().WriteAt(text, t.size)
	if err != nil {
		return errors.Join(err, t.file.File().Truncate(t.size))
	}
	t.size += int64(n)
	return nil
}

// Close ends the roots.
func (t *TempRootsFile) Close() error {
	if t.file != nil {
		_ = os.Remove(t.file.File().Name()) // an unlocked file is stale anyway
	}
	t.closeFiles()
	if t.held != nil {
		_ = t.held.Close()
		t.held = nil
	}
	return nil
}

func (t *TempRootsFile) closeFiles() {
	if t.file != nil {
		_ = t.file.Close()
	}
	if t.gcLock != nil {
		_ = t.gcLock.Close()
	}
	t.gc.close()
	t.file, t.gcLock = nil, nil
}
