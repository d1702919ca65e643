package lazy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/unixsocket"
)

// Report is how a mount and the process that serves it are.
type Report struct {
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"`
	Counts  Counts    `json:"counts"`
	Health  Health    `json:"health"`
	Objects Held      `json:"objects"`
	Cache   Usage     `json:"cache"`
}

// Held is how many objects there are of each kind.
type Held struct {
	Known     int   `json:"known"`     // that the mount has shown
	Complete  int64 `json:"complete"`  // here as a whole
	Partial   int64 `json:"partial"`   // here in part
	Graduated int64 `json:"graduated"` // of the complete ones, those that are read past the mount
}

// controlSocket is where the process that serves a mount says how it is, in the directory that
// belongs to the mount: whoever connects gets a Report as JSON.
const controlSocket = "control"

// controlTimeout is how long an answer may take.
const controlTimeout = 5 * time.Second

// Report tells how all is.
func (o *Objects) Report(ctx context.Context) (Report, error) {
	c := o.s.o.Cache
	r := Report{PID: os.Getpid(), Since: o.since, Counts: o.s.Counts(), Health: o.s.Health()}
	var err error
	if r.Cache, err = c.Usage(ctx); err != nil {
		return r, err
	}
	r.Objects.Known = o.numbers.known()
	if r.Objects.Complete, err = o.complete.entries(ctx, c.Objects()); err != nil {
		return r, err
	}
	if r.Objects.Partial, err = o.partial.entries(ctx, c.at("partial")); err != nil {
		return r, err
	}
	if o.s.o.Graduate {
		r.Objects.Graduated = r.Objects.Complete
	}
	return r, nil
}

// AnswerControl answers who asks how the mount is, whose directory is state, until ctx ends.
func (o *Objects) AnswerControl(ctx context.Context, state string) error {
	path := filepath.Join(state, controlSocket)
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	l, err := unixsocket.Listen(path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(controlTimeout))
		r, err := o.Report(ctx)
		if err != nil {
			o.s.o.Log.Warn(err.Error())
		}
		_ = json.NewEncoder(conn).Encode(r) // who asked may have gone
		_ = conn.Close()
	}
}

// AskControl asks the process that serves a mount how it is, and takes no longer than a few seconds.
func AskControl(ctx context.Context, state string) (*Report, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	conn, err := unixsocket.Dial(ctx, filepath.Join(state, controlSocket))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	r := new(Report)
	if err := json.NewDecoder(io.LimitReader(conn, 1<<20)).Decode(r); err != nil {
		return nil, fmt.Errorf("the process that serves the mount does not answer: %w", err)
	}
	return r, nil
}

// counted is how many entries a directory has, as long as it does not change.
type counted struct {
	mu      sync.Mutex
	number  int64
	changed unix.Timespec
}

// entries counts those of a directory, none if it is not there.
func (n *counted) entries(ctx context.Context, dir string) (int64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		if err == unix.ENOENT {
			return 0, nil
		}
		return 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mtim == n.changed {
		return n.number, nil
	}
	number := int64(0)
	if err := eachName(ctx, dir, func(string) { number++ }); err != nil {
		return 0, err
	}
	// What was changed in the same moment may show the same time.
	if time.Since(time.Unix(st.Mtim.Unix())) > time.Second {
		n.changed = st.Mtim
	}
	n.number = number
	return number, nil
}
