package stack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/storepath"
)

// Run says what of a stack is up: which process serves it, and what it has
// mounted. It is the file run.json in the upper's directory, written before each
// step that it tells about, so that after a crash nothing of ours is unknown.
type Run struct {
	Version  int       `json:"version"` // runVersion
	Strata   string    `json:"strata"`  // version of the program
	Name     string    `json:"name"`
	Dir      string    `json:"dir"` // Upper.Dir
	StoreDir string    `json:"store-dir"`
	Root     string    `json:"root"`
	Mount    string    `json:"mount"`
	Layer    string    `json:"layer"`
	State    string    `json:"state"`
	Sockets  []string  `json:"sockets,omitempty"` // once it is ready
	Client   string    `json:"client,omitempty"`  // the URI by which clients reach it
	Started  time.Time `json:"started"`
	Process  Process   `json:"process"`
	// MountNamespace is where the mounts are; Private tells that it is one of the
	// process's own user namespace, so that nobody else sees them.
	MountNamespace uint64     `json:"mount-namespace"`
	Private        bool       `json:"private,omitempty"`
	Lowers         []RunLower `json:"lowers"`
	Mounts         []Mounted  `json:"mounts,omitempty"` // in the order in which they were made
	// Detached are mounts that live on with those who used them when they were
	// detached.
	Detached []overlayfs.Record `json:"detached,omitempty"`
	// Frozen are detached mounts of the store that nobody can write to. The upper may be
	// mounted again all the same.
	Frozen []overlayfs.Record `json:"frozen,omitempty"`
}

// RunLower is one lower of a stack that is up.
type RunLower struct {
	Name  string    `json:"name"`
	Kind  LowerKind `json:"kind"`
	Given string    `json:"given"` // path or URI
	// Real and State are where in that objects and database are, if that was said.
	Real  string `json:"real,omitempty"`
	State string `json:"state,omitempty"`
	Dir   string `json:"dir"` // of the objects
	URI   string `json:"uri"` // as it was opened
}

// Mounted is one mount of a stack and what it is for.
type Mounted struct {
	Role string `json:"role"` // "store", "state", "image base", …
	// Given, Source and Identity tell whether the mount is what a later run would
	// make: where, what in words, and that as numbers.
	Given    string           `json:"given"`
	Source   string           `json:"source"`
	Identity string           `json:"identity"`
	Record   overlayfs.Record `json:"record"`
}

const (
	runVersion = 1
	runFile    = "run.json"
	lockFile   = "lock"
	// maxRun bounds what is read; 500 lowers with long names stay far below.
	maxRun = 16 << 20
)

// Up tells whether the process that serves the stack runs. The error says that
// nobody can tell.
func (r *Run) Up() (bool, error) { return r.Process.Alive() }

// Enter is the command by which a program gets to see the mounts, if they are
// in a namespace of their own.
func (r *Run) Enter() []string {
	if !r.Private {
		return nil
	}
	return []string{"nsenter", fmt.Sprintf("--target=%d", r.Process.PID), "--user", "--mount", "--preserve-credentials", "--wdns=/", "--"}
}

func runPath(dir string) string { return filepath.Join(dir, runFile) }

// readRun reads run.json. [ErrNotUp] says that there is none.
func readRun(path string) (*Run, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotUp
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxRun {
		return nil, fmt.Errorf("'%s' is no record of a stack", path)
	}
	if owner, ok := st.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		// It says which process is to be ended, and what is to be unmounted.
		return nil, fmt.Errorf("'%s' belongs to another user", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRun))
	if err != nil {
		return nil, err
	}
	r, err := parseRun(path, data)
	if err != nil && beforeBoot(st.ModTime()) {
		return nil, ErrNotUp // a power failure broke it, and took the mounts with it
	}
	return r, err
}

// beforeBoot tells whether something happened before the kernel was started.
func beforeBoot(t time.Time) bool {
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return false
	}
	return t.Before(time.Now().Add(-time.Duration(up.Nano())))
}

func parseRun(path string, data []byte) (*Run, error) {
	var r Run
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("'%s' is damaged; remove it if nothing of the stack is mounted: %w", path, err)
	}
	if err := r.check(path); err != nil {
		return nil, err
	}
	return &r, nil
}

func (r *Run) check(path string) error {
	if r.Version != runVersion {
		return fmt.Errorf("'%s' was written by another version of strata (%s)", path, r.Strata)
	}
	if !validName(r.Name) || !filepath.IsAbs(r.Dir) {
		return fmt.Errorf("'%s' is damaged: it names no stack", path)
	}
	if _, err := storepath.ParseDir(r.StoreDir); err != nil {
		return fmt.Errorf("'%s' is damaged: %w", path, err)
	}
	for _, m := range r.Mounts {
		text, err := json.Marshal(m.Record)
		if err == nil {
			_, err = overlayfs.ParseRecord(text)
		}
		if err != nil {
			return fmt.Errorf("'%s' is damaged: %s: %w", path, m.Role, err)
		}
	}
	return nil
}

// save writes run.json in one step. It need not reach the disk: after a power
// failure there are no mounts, see beforeBoot.
func (r *Run) save() error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	temp := runPath(r.Dir) + ".new"
	if err := os.WriteFile(temp, append(text, '\n'), 0o644); err != nil { //nolint:gosec // status is for everybody
		_ = os.Remove(temp)
		return err
	}
	return os.Rename(temp, runPath(r.Dir))
}

// forget removes run.json and the stack's name.
func (r *Run) forget() error {
	err := unregister(r)
	if rmErr := os.Remove(runPath(r.Dir)); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}
