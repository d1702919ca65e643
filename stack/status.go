package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/worker"
)

// Status is how a stack is. Its JSON form is described in
// doc/formats/status-json.md.
type Status struct {
	Name    string    `json:"name"`
	State   State     `json:"state"`
	Version string    `json:"version"` // of the program that serves it
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started"`
	Uptime  float64   `json:"uptimeSeconds,omitempty"`
	Dir     string    `json:"dir"`
	// StoreDir is the logical store directory, Mount where it is mounted.
	StoreDir string         `json:"storeDir"`
	Root     string         `json:"root"`
	Client   string         `json:"client,omitempty"` // see Config.ClientURI
	Mount    string         `json:"mount"`
	Mounted  bool           `json:"mounted"` // as it should be
	Private  bool           `json:"private"`
	Enter    []string       `json:"enter,omitempty"` // see Run.Enter
	Sockets  []SocketStatus `json:"sockets"`
	Layers   []LayerStatus  `json:"layers"` // top to bottom
	// Refreshes tell how the growth of lowers is noticed; absent if the stack is not
	// served.
	Refreshes *RefreshStatus `json:"refreshes,omitempty"`
	// Holds tell what the owners of lowers know of what is used of theirs.
	Holds []HoldStatus `json:"holds,omitempty"`
	// GC tells of the collections by the policy of the stack.
	GC *GCStatus `json:"gc,omitempty"`
	// Limited says why no more is known than can be seen from outside; absent if it is.
	Limited string `json:"limited,omitempty"`
	// Problems are sentences; there are none when all is well.
	Problems []string `json:"problems"`
}

// State says in a word how a stack is.
type State string

// The states.
const (
	StateUp   State = "up"   // served
	StateDown State = "down" // nobody serves it; something of it is left
	StateMute State = "mute" // its process runs and does not answer
)

// SocketStatus is one socket of the daemon.
type SocketStatus struct {
	Path      string `json:"path"`
	Answering bool   `json:"answering"`
}

// LayerStatus is one layer. Numbers that would take long to find are left out.
type LayerStatus struct {
	Name  string `json:"name"` // "upper", or the lower's
	Kind  string `json:"kind"` // "upper", "directory", "image", "store"
	Given string `json:"given,omitempty"`
	URI   string `json:"uri,omitempty"` // of a lower, as it was opened
	Dir   string `json:"dir"`           // of the objects
	// Paths are the valid paths of the layer's database.
	Paths *Count `json:"paths,omitempty"`
	// Objects are those of the upper layer that are on disk, NarBytes their sizes as
	// NARs.
	Objects  *Count  `json:"objects,omitempty"`
	NarBytes *uint64 `json:"narBytes,omitempty"`
	// Disk is the file system of the upper layer.
	Disk *Disk `json:"disk,omitempty"`
	// Lazy is how the mount of a lazy lower is; absent if nobody serves it.
	Lazy *lazy.Report `json:"lazy,omitempty"`
	// Tmpfs tells that the layer is in memory and goes with the stack.
	Tmpfs bool `json:"tmpfs,omitempty"`
}

// Count is a number that may be an estimate.
type Count struct {
	Number int64 `json:"number"`
	Exact  bool  `json:"exact"`
}

// Disk is how full a file system is.
type Disk struct {
	Size      uint64 `json:"size"`
	Available uint64 `json:"available"`
}

// Limits of what a status looks at.
const (
	// countExactly is up to how many rows are counted one by one.
	countExactly = 100_000
	// maxListed is how many objects of an upper layer are summed up.
	maxListed = 20_000
	// patience is how long an answer may take.
	patience = 2 * time.Second
)

// Status tells how this stack is.
func (s *Stack) Status(ctx context.Context) *Status {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st := s.run.look(ctx)
	st.State = StateUp
	st.Refreshes, st.GC = s.refreshStatus(), s.gcStatus()
	for _, h := range s.background.held() {
		hs := h.status()
		if st.Holds = append(st.Holds, hs); hs.Error != "" {
			st.Problems = append(st.Problems, fmt.Sprintf("lower '%s': its owner cannot be told what is used: %s", hs.Lower, hs.Error))
		}
	}
	st.noteError("upper", st.Layers[0].fillUpper(ctx, s))
	for i, l := range s.lowers {
		if db, ok := store.As[interface{ DB() *nixdb.DB }](l); ok {
			n, err := countPaths(ctx, db.DB())
			st.Layers[i+1].Paths = n
			st.noteError("lower '"+st.Layers[i+1].Name+"'", err)
		}
	}
	return st
}

// noteError makes a problem of an error, except that there was no time to look.
func (st *Status) noteError(layer string, err error) {
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		st.Problems = append(st.Problems, fmt.Sprintf("%s: %v", layer, err))
	}
}

// Status tells how a stack is, by asking its process or, if there is none, by
// looking at what is left.
func (r *Run) Status(ctx context.Context) *Status {
	up, err := r.Up()
	if up || err != nil {
		st, askErr := askForStatus(ctx, r.Dir)
		if askErr == nil {
			return st
		}
		st = r.look(ctx)
		if st.State = StateUp; errors.Is(askErr, fs.ErrPermission) && err == nil {
			st.Limited = "only root and its owner are told more"
			return st
		}
		st.State = StateMute
		st.Problems = append(st.Problems, fmt.Sprintf("the process that serves it does not answer: %v", errors.Join(err, askErr)))
		return st
	}
	st := r.look(ctx)
	st.State, st.PID, st.Uptime, st.Enter = StateDown, 0, 0, nil
	if n := len(r.Mounts); n > 0 {
		st.Problems = append(st.Problems, fmt.Sprintf("its process has ended; %d mounts may be left, which 'strata down' removes and 'strata up' takes over", n))
	}
	if len(r.Detached) > 0 {
		st.Problems = append(st.Problems, "a detached mount still is used; until that ends the upper must not be mounted again")
	}
	return st
}

// look tells what can be seen without opening a store.
func (r *Run) look(ctx context.Context) *Status {
	st := &Status{
		Name: r.Name, Version: r.Strata, PID: r.Process.PID, Started: r.Started,
		Uptime: r.Process.uptime().Seconds(), Dir: r.Dir, Client: r.Client, StoreDir: r.StoreDir, Root: r.Root, Mount: r.Mount,
		Private: r.Private, Enter: r.Enter(), Sockets: []SocketStatus{}, Problems: []string{},
	}
	upper := LayerStatus{Name: "upper", Kind: "upper", Dir: r.Layer, Tmpfs: throwaway(r.Dir, r.Layer)}
	st.Layers = append(st.Layers, upper)
	for _, l := range r.Lowers {
		st.Layers = append(st.Layers, LayerStatus{Name: l.Name, Kind: string(l.Kind), Given: l.Given, URI: l.URI, Dir: l.Dir})
	}
	r.lookAtMounts(ctx, st)
	r.lookAtLazy(ctx, st)
	for _, path := range r.Sockets {
		err := answers(ctx, path)
		if err != nil {
			st.Problems = append(st.Problems, fmt.Sprintf("socket '%s' does not answer: %v", path, err))
		}
		st.Sockets = append(st.Sockets, SocketStatus{Path: path, Answering: err == nil})
	}
	return st
}

// answers greets the daemon on a socket.
func answers(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	c, err := worker.NewClient(ctx, worker.DialUnix(path), worker.ClientOptions{})
	if err != nil {
		return err
	}
	return c.Close()
}

// lookAtMounts compares the mounts with what they should be.
func (r *Run) lookAtMounts(ctx context.Context, st *Status) {
	for _, m := range r.Mounts {
		if m.Role == roleStore {
			r.lookAtStore(ctx, st, m)
			continue
		}
		if state, err := m.Record.Recognise(); err != nil || state != overlayfs.Mounted {
			st.Problems = append(st.Problems, fmt.Sprintf("the mount of %s at '%s' is %s", m.Role, m.Given, stateText(state, err)))
		}
	}
}

func stateText(s overlayfs.State, err error) string {
	if err != nil {
		return "unknown: " + err.Error()
	}
	return s.String()
}

func (r *Run) lookAtStore(ctx context.Context, st *Status, m Mounted) {
	want := overlayfs.Expected{Lowers: m.Record.Lowers, Upper: m.Record.Upper, Record: &m.Record}
	if err := overlayfs.Verify(r.Mount, want); err != nil {
		st.Problems = append(st.Problems, err.Error())
	} else {
		st.Mounted = true
	}
	r.lookForReplaced(st, m)
	h, err := overlayfs.CheckHealth(ctx, r.Mount, &m.Record)
	if err != nil || !st.Mounted {
		return // said above
	}
	for _, p := range h.Problems {
		if !slices.Contains(st.Problems, p) {
			st.Problems = append(st.Problems, p)
		}
	}
	if h.Upper != nil {
		st.Layers[0].Disk = &Disk{Size: h.Upper.Size, Available: h.Upper.Available}
	}
}

// lookForReplaced compares the lowers that are there with those that were mounted.
func (r *Run) lookForReplaced(st *Status, m Mounted) {
	// The first two are the upper layer and its work directory.
	were := strings.Fields(m.Identity)
	if len(were) != len(r.Lowers)+2 {
		return
	}
	for i, l := range r.Lowers {
		id, err := identify(l.Dir)
		if err == nil && id != were[i+2] {
			st.Problems = append(st.Problems, fmt.Sprintf("lower '%s' was replaced: '%s' is not the directory any more that is mounted", l.Name, l.Dir))
		}
	}
}

// fillUpper adds what only the open store knows.
func (l *LayerStatus) fillUpper(ctx context.Context, s *Stack) (err error) {
	db := s.Store.DB()
	l.URI = s.Store.URI()
	if l.Paths, err = countPaths(ctx, db); err != nil {
		return err
	}
	paths, all := listPaths(l.Dir)
	objects, sum := int64(0), uint64(0)
	for batch := range slices.Chunk(paths, 1000) {
		infos, err := db.PathInfos(ctx, batch)
		if err != nil {
			return err
		}
		for _, info := range infos {
			if info != nil { // else a lock, what is being unpacked, garbage
				objects++
				sum += info.NarSize
			}
		}
	}
	l.Objects = &Count{Number: objects, Exact: all}
	if all {
		l.NarBytes = &sum
	}
	return nil
}

// listPaths lists what has the name of a store path in a directory, and tells whether these are all.
func listPaths(dir string) (paths []storepath.Path, all bool) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	names, err := f.Readdirnames(maxListed + 1)
	for _, name := range names[:min(len(names), maxListed)] {
		if p, err := storepath.ParseBase(name); err == nil {
			paths = append(paths, p)
		}
	}
	return paths, err == nil && len(names) <= maxListed || len(names) == 0
}

// countPaths counts the paths of a database if that is quick, and else tells
// how many there are at most.
func countPaths(ctx context.Context, db *nixdb.DB) (*Count, error) {
	most, err := db.MaxPaths(ctx)
	if err != nil {
		return nil, err
	}
	if most > countExactly {
		return &Count{Number: most}, nil
	}
	st, err := db.Stats(ctx)
	if err != nil {
		return &Count{Number: most}, err
	}
	return &Count{Number: st.Paths, Exact: true}, nil
}
