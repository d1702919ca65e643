package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/storepath"
)

// The journal of a check of contents: a file in the state directory that says how far
// it came, so that it can be resumed. doc/formats/check-json.md describes it. It is
// only there while a check is not complete.
const (
	journalFile    = "strata-check.json"
	journalVersion = 1
	maxJournal     = 16 << 20
	saveEvery      = 5 * time.Second
	// maxSuspects is how many objects of a layer it remembers that something was wrong
	// with.
	maxSuspects = 10_000
)

// journal is how far a check of contents is.
type journal struct {
	path string // "": nothing is written

	mu    sync.Mutex
	state journalState
	saved time.Time
}

type journalState struct {
	Version  int                      `json:"version"`
	StoreDir string                   `json:"storeDir"`
	Started  time.Time                `json:"started"`
	Layers   map[string]*journalLayer `json:"layers"`
}

// journalLayer is one layer. All objects up to After have been compared.
type journalLayer struct {
	After    string   `json:"after,omitempty"`
	Done     bool     `json:"done,omitempty"`
	Objects  uint64   `json:"objects"`
	Bytes    uint64   `json:"bytes"`
	Suspects []string `json:"suspects,omitempty"`
}

// openJournal begins a journal, or goes on with that of an earlier run.
func (x *examination) openJournal(ctx context.Context) *journal {
	j := &journal{saved: time.Now()}
	if !x.ReadOnly {
		j.path = filepath.Join(x.StateDir, journalFile)
	}
	if x.opts.Resume {
		state, err := readJournal(filepath.Join(x.StateDir, journalFile), x.Dir)
		switch {
		case err == nil:
			j.state = *state
			x.report.Since = state.Started
			return j
		case errors.Is(err, fs.ErrNotExist):
			activity.Logf(ctx, activity.Info, "there is no interrupted check to resume")
		default:
			activity.Warnf(ctx, "checking from the beginning: %v", err)
		}
	}
	j.state = journalState{Version: journalVersion, StoreDir: string(x.Dir), Started: x.report.Started.UTC(), Layers: map[string]*journalLayer{}}
	return j
}

func readJournal(path string, dir storepath.Dir) (*journalState, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("'%s' is no regular file (%w)", path, errors.Join(err, fs.ErrInvalid))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxJournal+1))
	if err != nil {
		return nil, err
	}
	state, err := parseJournal(data, dir)
	if err != nil {
		return nil, fmt.Errorf("'%s' is no journal of a check: %w", path, err)
	}
	return state, nil
}

func parseJournal(data []byte, dir storepath.Dir) (*journalState, error) {
	if len(data) > maxJournal {
		return nil, fmt.Errorf("it is larger than %d bytes", maxJournal)
	}
	var s journalState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	switch {
	case s.Version != journalVersion:
		return nil, fmt.Errorf("its version is %d, and not %d", s.Version, journalVersion)
	case s.StoreDir != string(dir):
		return nil, fmt.Errorf("it is of the store directory '%.300s'", s.StoreDir)
	}
	for name, l := range s.Layers {
		if l == nil {
			return nil, fmt.Errorf("layer '%.80s' has nothing", name)
		}
		texts := l.Suspects
		if l.After != "" {
			texts = append(slices.Clone(texts), l.After)
		}
		for _, t := range texts {
			if _, err := storepath.ParseBase(t); err != nil {
				return nil, err
			}
		}
	}
	if s.Layers == nil {
		s.Layers = map[string]*journalLayer{}
	}
	return &s, nil
}

// layer gives what is known of a layer.
func (j *journal) layer(name string) *journalLayer {
	l := j.state.Layers[name]
	if l == nil {
		l = &journalLayer{}
		j.state.Layers[name] = l
	}
	return l
}

// position is behind which path to go on, and what has been compared by then.
func (j *journal) position(name string) (after storepath.Path, before amount, done bool) {
	l := j.layer(name)
	after, _ = storepath.ParseBase(l.After) // zero if there is none
	return after, amount{l.Objects, l.Bytes}, l.Done
}

// suspects are objects that were not right when they were compared, to be looked at
// again. Those behind the position come anyway.
func (j *journal) suspects(name string) (list []storepath.Path) {
	l := j.layer(name)
	after, _, done := j.position(name)
	for _, text := range l.Suspects {
		if p, err := storepath.ParseBase(text); err == nil && (done || !after.IsZero() && storepath.Compare(p, after) <= 0) {
			list = append(list, p)
		}
	}
	l.Suspects = nil
	return list
}

// suspect notes an object that is not right.
func (j *journal) suspect(name string, p storepath.Path) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if l := j.layer(name); len(l.Suspects) < maxSuspects && !slices.Contains(l.Suspects, p.Base()) {
		l.Suspects = append(l.Suspects, p.Base())
	}
}

// reached notes that everything up to a path has been compared.
func (j *journal) reached(ctx context.Context, name string, last storepath.Path, more amount) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.layer(name)
	l.After = last.Base()
	l.Objects += more.objects
	l.Bytes += more.bytes
	if time.Since(j.saved) >= saveEvery {
		j.save(ctx)
	}
}

// finished notes that a layer is complete.
func (j *journal) finished(ctx context.Context, name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.layer(name).Done = true
	j.save(ctx)
}

// flush saves what is known when the check is interrupted.
func (j *journal) flush(ctx context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.save(ctx)
}

// save writes the journal in one step. Nothing is lost without it but time, so it need not
// reach the disk.
func (j *journal) save(ctx context.Context) {
	j.saved = time.Now()
	if j.path == "" {
		return
	}
	text, err := json.Marshal(&j.state)
	if err == nil {
		err = os.WriteFile(j.path+".new", append(text, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(j.path+".new", j.path)
	}
	if err != nil {
		activity.Warnf(ctx, "the check cannot be resumed if it is interrupted: %v", err)
		j.path = ""
	}
}

// remove deletes the journal of a check that is complete.
func (j *journal) remove(ctx context.Context) {
	if j.path == "" {
		return
	}
	for _, path := range []string{j.path, j.path + ".new"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			activity.Warnf(ctx, "the journal of the check stays: %v", err)
		}
	}
}

// watermark knows up to where everything is done that was begun in order and ends in any.
type watermark struct {
	mu   sync.Mutex
	next int
	done map[int]nixdb.Row
}

// finish notes the end of the n-th, and calls reached with the last row up to which all are
// done, if there are more than before.
func (w *watermark) finish(n int, row nixdb.Row, reached func(last storepath.Path, more amount)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done == nil {
		w.done = map[int]nixdb.Row{}
	}
	w.done[n] = row
	var more amount
	var last storepath.Path
	for {
		row, ok := w.done[w.next]
		if !ok {
			break
		}
		delete(w.done, w.next)
		w.next++
		more.objects++
		more.bytes += row.NarSize
		last = row.Path
	}
	if more.objects > 0 {
		reached(last, more)
	}
}
