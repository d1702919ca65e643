package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// lazyMount is a mount of a lazy store as others find it: its state directory has this in
// the file "mount.json".
type lazyMount struct {
	Target string `json:"target"`
	Store  string `json:"store"`            // its URI
	PID    int    `json:"pid"`              // of who keeps it
	Stored bool   `json:"stored,omitempty"` // it goes on without the process, see storeFD
	// Believes is what the mount was made with that decides where it keeps objects. Missing if a process wrote this that
	// knew nothing of it.
	Believes *lazyBelief `json:"believes,omitempty"`
	state    string      // the directory
}

// lazyBelief are the settings that stores have to have in common which share what they fetch.
type lazyBelief struct {
	StoreDir    storepath.Dir `json:"storeDir"`
	Keys        []string      `json:"keys"`
	RequireSigs bool          `json:"requireSigs"`
}

// belief are those of a configuration.
func (c *config) belief() *lazyBelief {
	return &lazyBelief{StoreDir: c.dir, Keys: c.local.TrustedKeys.Strings(), RequireSigs: c.local.RequireSigs}
}

const lazyMountFile = "mount.json"

// lazyPlaces is where state directories of lazy mounts are.
func lazyPlaces() string { return filepath.Join(stack.RuntimeDir(), "lazy") }

// write makes the mount known.
func (m *lazyMount) write() error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.state, lazyMountFile), text, 0o644) //nolint:gosec // no secrets
}

// linkName is the name of a link to the state of a mount that is with its stack.
func (m *lazyMount) linkName() string { return fmt.Sprintf("stack-%d", m.PID) }

// lazyMounts finds the mounts whose keepers are alive.
func lazyMounts() ([]*lazyMount, error) {
	dirs, err := os.ReadDir(lazyPlaces())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []*lazyMount
	for _, d := range dirs {
		m, err := readLazyMount(filepath.Join(lazyPlaces(), d.Name()))
		if err != nil || m.PID <= 0 {
			continue // it is just being made, or taken away
		}
		if !d.IsDir() && d.Name() != m.linkName() {
			_ = os.Remove(m.state) // of a process that kept it before
			continue
		}
		if err := unix.Kill(m.PID, 0); err == nil || errors.Is(err, unix.EPERM) || m.ask(context.Background()) != nil {
			all = append(all, m)
		} else if m.Stored {
			continue // the next process is on its way
		} else if d.IsDir() {
			_ = os.RemoveAll(m.state) // of a mount that nobody serves any more
		} else {
			_ = os.Remove(m.state) // a link to one with a stack, which takes it away itself
		}
	}
	return all, nil
}

// lazyMountOf finds the mount that path is in, or at; "" is the only one there is.
func lazyMountOf(path string) (*lazyMount, error) {
	all, err := lazyMounts()
	if err != nil {
		return nil, err
	}
	if path == "" {
		if len(all) == 1 {
			return all[0], nil
		}
		return nil, &usageError{fmt.Errorf("there are %d lazy mounts; say with --at which one is meant", len(all))}
	}
	at, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if at == m.Target || strings.HasPrefix(at, m.Target+"/") {
			return m, nil
		}
	}
	return nil, &usageError{fmt.Errorf("'%s' is not in a lazy mount", path)}
}

// open opens the store of a mount, without serving anything. It believes what the mount does, whatever the settings
// of this process are: otherwise it would look, and put things, where the mount does not.
func (m *lazyMount) open(ctx context.Context, g *globals) (*lazyStore, error) {
	c, err := g.config()
	if err != nil {
		return nil, err
	}
	ref, err := store.ParseReference(m.Store)
	if err != nil {
		return nil, err
	}
	if c, err = m.believing(c); err != nil {
		return nil, err
	}
	return c.openLazy(ctx, ref)
}

// believing is a configuration with what the mount believes.
func (m *lazyMount) believing(c *config) (*config, error) {
	if m.Believes == nil {
		return c, nil
	}
	keys, err := trust.ParseKeys(m.Believes.Keys)
	if err == nil {
		_, err = storepath.ParseDir(string(m.Believes.StoreDir))
	}
	if err != nil {
		return nil, fmt.Errorf("'%s': %w", filepath.Join(m.state, lazyMountFile), err)
	}
	other := *c
	other.dir, other.local.TrustedKeys, other.local.RequireSigs = m.Believes.StoreDir, keys, m.Believes.RequireSigs
	return &other, nil
}

// readLazyMount reads what is known of a mount, by its state directory. With an error it gives what it has understood.
func readLazyMount(state string) (*lazyMount, error) {
	m := &lazyMount{state: state}
	name := filepath.Join(state, lazyMountFile)
	text, err := os.ReadFile(name)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, m); err != nil {
		return m, fmt.Errorf("'%s': %w", name, err)
	}
	return m, nil
}

// ask asks the process that serves the mount how it is; nil if it does not answer.
func (m *lazyMount) ask(ctx context.Context) *lazy.Report {
	r, err := lazy.AskControl(ctx, m.state)
	if err != nil {
		return nil
	}
	return r
}
