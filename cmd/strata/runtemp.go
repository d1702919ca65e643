package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/stack"
	"github.com/strata-nix/strata/storepath"
)

const defaultStoreDir = storepath.DefaultDir

// runPrefix begins the names of stacks that have no name of their own.
const runPrefix = "run-"

// temporary returns what removes the directory of a stack that goes with its
// command, and removes those of earlier ones that were killed.
func temporary(cfg *stack.Config) (forget func()) {
	dir := cfg.Upper.Dir
	uppers := filepath.Join(stack.RuntimeDir(), "uppers")
	if _, ok := runProcess(dir); !ok || filepath.Dir(dir) != uppers {
		return func() {}
	}
	entries, _ := os.ReadDir(uppers) // none: nothing is left there
	for _, e := range entries {
		old := filepath.Join(uppers, e.Name())
		if pid, ok := runProcess(old); ok && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			removeRun(old)
		}
	}
	return func() { removeRun(dir) }
}

// runProcess is the process whose temporary directory has this name.
func runProcess(dir string) (pid int, ok bool) {
	number, ok := strings.CutPrefix(filepath.Base(dir), runPrefix)
	pid, err := strconv.Atoi(number)
	return pid, ok && err == nil && pid > 0
}

// removeRun removes the directory of a stack that is not up and has nothing mounted.
func removeRun(dir string) {
	if r, err := stack.FindUpper(dir); err == nil {
		if up, err := r.Up(); err != nil || up {
			return
		}
	} else if !errors.Is(err, stack.ErrNotUp) {
		return
	}
	mounted, err := mount.ReadTable(func(e mount.Entry) bool { return strings.HasPrefix(e.Target, dir+"/") })
	if err == nil && len(mounted) == 0 {
		_ = os.RemoveAll(dir) // what is left goes with the session
	}
}

// withoutFUSE does without lazy lowers where FUSE cannot be had: then the daemon fetches what
// it is asked for from the same caches, which are given then.
func withoutFUSE(ctx context.Context, g *globals, cfg *stack.Config) (caches []string, err error) {
	isLazy := func(l stack.Lower) bool { return l.Store.Scheme == stack.LazyScheme }
	if !slices.ContainsFunc(cfg.Lowers, isLazy) {
		return nil, nil
	}
	if err = fusefs.Available(); err == nil {
		return nil, nil
	}
	for _, l := range cfg.Lowers {
		if isLazy(l) && l.Store.Param("offline") != "true" {
			caches = append(caches, l.Store.Params["from"]...)
		}
	}
	g.log().Warn(fmt.Sprintf("lazy lowers need /dev/fuse, which cannot be had (%v): objects are fetched when the daemon is asked for them,"+
		" with 'nix-store --realise' for example", err))
	cfg.Lowers = slices.DeleteFunc(slices.Clone(cfg.Lowers), isLazy)
	settings := map[string]string{"substitute": "true", "extra-substituters": strings.Join(caches, " ")}
	for name, value := range cfg.Settings {
		if name == "extra-substituters" {
			value += " " + settings[name]
		}
		settings[name] = value
	}
	cfg.Settings = settings
	if len(cfg.Lowers) > 0 {
		return caches, nil
	}
	return caches, nothingBelow(ctx, g, cfg)
}

// nothingBelow gives a stack an empty lower.
func nothingBelow(ctx context.Context, g *globals, cfg *stack.Config) error {
	root := filepath.Join(cfg.Upper.Dir, "nothing")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	other := globals{progress: g.progress, stderr: g.stderr, options: g.options} // whose settings are not final
	st, err := other.openURI(ctx, "local?root="+url.QueryEscape(root))
	if err != nil {
		return err
	}
	if err := errors.Join(st.Close(), other.cfg.end()); err != nil {
		return err
	}
	cfg.Lowers = []stack.Lower{{Name: "nothing", Path: root}}
	resolved, err := cfg.Resolve("/")
	if err == nil {
		*cfg = resolved
	}
	return err
}
