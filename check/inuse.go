package check

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/storepath"
)

// temporaryRoots are what processes at work keep alive, by hash part: what they are
// making need not be registered yet.
type temporaryRoots struct {
	hashParts map[string]bool
	dead      []string // files of processes that have ended
}

// maxTemporaryRoots bounds what is read of one file.
const maxTemporaryRoots = 64 << 20

// temporarily tells whether somebody keeps alive in a layer what a line is about.
func (x *examination) temporarily(layer int, l *line) bool {
	return !l.path.IsZero() && x.temporary[layer].hashParts[l.path.HashPart()]
}

// readTemporaryRoots reads those of all layers without changing anything.
func (x *examination) readTemporaryRoots() {
	x.temporary = make([]*temporaryRoots, len(x.Layers))
	for i := range x.Layers {
		x.temporary[i] = x.temporaryRootsOf(x.Layers[i].StateDir)
	}
}

// temporaryRootsOf passes over what cannot be read.
func (x *examination) temporaryRootsOf(stateDir string) *temporaryRoots {
	t := &temporaryRoots{hashParts: map[string]bool{}}
	if stateDir == "" {
		return t
	}
	dir := filepath.Join(stateDir, temporaryDir)
	list, err := os.ReadDir(dir)
	if err != nil {
		return t
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			continue
		}
		t.read(filepath.Join(dir, e.Name()), x.Dir)
	}
	return t
}

func (t *temporaryRoots) read(path string, dir storepath.Dir) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if unlocked(f) {
		if !recent(path) {
			t.dead = append(t.dead, path)
		}
		return
	}
	text, err := io.ReadAll(io.LimitReader(f, maxTemporaryRoots))
	if err != nil {
		return
	}
	for root := range bytes.SplitSeq(text, []byte{0}) {
		if p, err := dir.Parse(string(root)); err == nil {
			t.hashParts[p.HashPart()] = true
		}
	}
}

// unlocked tells whether nobody has a file locked.
func unlocked(f *os.File) bool {
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		return false
	}
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return true
}

// settling is for how long something may be there before its maker has locked it, or
// after.
const settling = 10 * time.Second

// recent tells whether something was changed a moment ago, or is gone by now.
func recent(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	age := time.Since(fi.ModTime())
	return age < settling && age > -settling
}

// inUse tells whether somebody has a file or directory locked or may be about to, or
// nobody can tell.
func (x *examination) inUse(path string, typ uint8) bool {
	if recent(path) {
		return true
	}
	if typ != unix.DT_REG && typ != unix.DT_DIR {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return true // gone, or not ours to look at
	}
	defer f.Close()
	return !unlocked(f)
}

// lockedAt is where others lock what the first layer has of a name: in a merged directory, since the
// kernel keeps locks of what shows there apart from locks of the file in the layer.
func (x *examination) lockedAt(name string) string {
	if x.mounted {
		return filepath.Join(x.RealDir, name)
	}
	return filepath.Join(x.Layers[0].Dir, name)
}

// heldLock tells whether somebody holds the lock of a path.
func (x *examination) heldLock(p storepath.Path) bool { return held(x.lockedAt(p.Base() + ".lock")) }

// held tells whether somebody has a file locked.
func held(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return !unlocked(f)
}

// removalNotes are the files in the state directory by which a layered store says that
// it takes objects out of its upper layer.
const removalNotes = "strata-removing-*"

// removing tells whether somebody takes objects out of the upper layer right now.
func (x *examination) removing() bool {
	notes, _ := filepath.Glob(filepath.Join(globQuoted(x.StateDir), removalNotes))
	return slices.ContainsFunc(notes, func(n string) bool { return held(n) })
}

// globQuoted makes a path stand for itself in a pattern.
func globQuoted(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// waitForRemovals waits a while for those to end: half-way an object that a lower has
// does not show.
func (x *examination) waitForRemovals(ctx context.Context) {
	const most, step = 100, 20 * time.Millisecond
	for range most {
		if len(x.Layers) == 1 || !x.removing() {
			return
		}
		select {
		case <-time.After(step):
		case <-ctx.Done():
			return
		}
	}
}
