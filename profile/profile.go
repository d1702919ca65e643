// Package profile has the generations of profiles: symlinks NAME-1-link, NAME-2-link,
// … beside a symlink NAME to the current one. Deleting old ones is how garbage comes
// about.
//
// Rules and names are those of nix-env and nix-collect-garbage.
//
// Source: src/libstore/profiles.cc and nix-collect-garbage.cc of Nix 2.34.
package profile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/flock"
)

// Generation is one of a profile's.
type Generation struct {
	Profile string // path of the symlink that names the current one
	Number  uint32
	Path    string
	Created time.Time // of the symlink, in seconds
}

// Old says which generations are old.
type Old struct {
	// Before is a time. A generation is old if a later one was current by then, so that
	// what was current at that time can be gone back to. Zero: all are old.
	Before time.Time
}

// suffix ends the name of a generation.
const suffix = "-link"

// number reads the name of a generation of a profile.
func number(profile, name string) (uint32, bool) {
	rest, ok := strings.CutPrefix(name, profile+"-")
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, suffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), err == nil
}

// Generations lists those of a profile, oldest first, and which is current; 0 if
// that cannot be told.
func Generations(profile string) (all []Generation, current uint32, err error) {
	dir, name := filepath.Split(profile)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil, 0, fmt.Errorf("listing the generations of profile '%s': %w", profile, err)
	}
	for _, e := range entries {
		n, ok := number(name, e.Name())
		if !ok {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("listing the generations of profile '%s': %w", profile, err)
		}
		all = append(all, Generation{Profile: profile, Number: n, Path: filepath.Join(dir, e.Name()), Created: info.ModTime().Truncate(time.Second)})
	}
	slices.SortFunc(all, func(a, b Generation) int { return int(int64(a.Number) - int64(b.Number)) })
	target, err := os.Readlink(profile)
	if err != nil {
		return nil, 0, fmt.Errorf("reading profile '%s': %w", profile, err)
	}
	current, _ = number(name, filepath.Base(target))
	return all, current, nil
}

// old are those that are to go. The current one never is, and neither is any where
// it cannot be told which that is.
func (o Old) of(all []Generation, current uint32) (out []Generation) {
	if !slices.ContainsFunc(all, func(g Generation) bool { return g.Number == current }) {
		return nil
	}
	last := len(all)
	if !o.Before.IsZero() {
		// The newest that was there by then stays: it was the one in use.
		for last = len(all) - 1; last >= 0 && !all[last].Created.Before(o.Before); last-- {
		}
	}
	for _, g := range all[:max(last, 0)] {
		if g.Number != current {
			out = append(out, g)
		}
	}
	return out
}

// Prune deletes the old generations of a profile, or with dryRun only finds them.
// Whoever makes a generation of the profile waits meanwhile, as by Nix's lock.
func Prune(ctx context.Context, profile string, o Old, dryRun bool) ([]Generation, error) {
	if !dryRun {
		lock, err := flock.OpenLive(ctx, profile+".lock", nil)
		if err != nil {
			return nil, fmt.Errorf("profile '%s': %w", profile, err)
		}
		defer func() {
			lock.Delete()
			_ = lock.Close() // nothing was written to it
		}()
	}
	if !isProfile(profile) {
		return nil, nil // nor is it known which generation is current
	}
	all, current, err := Generations(profile)
	if err != nil {
		return nil, err
	}
	old := o.of(all, current)
	if dryRun {
		return old, nil
	}
	for i, g := range old {
		if err := os.Remove(g.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return old[:i], fmt.Errorf("deleting generation %d of profile '%s': %w", g.Number, profile, err)
		}
		crashpoint.Reached("profile: generation deleted")
	}
	return old, nil
}

// PruneAll does that for all profiles in directories and below them. may, if not
// nil, is asked about each profile. Directories that are not there or must not be
// read are passed over, and so are profiles in those that must not be written to.
func PruneAll(ctx context.Context, dirs []string, o Old, dryRun bool, may func(profile string) bool) (pruned []Generation, err error) {
	var seen []string
	for _, dir := range dirs {
		if real, err := filepath.EvalSymlinks(dir); err == nil && !slices.Contains(seen, real) {
			seen = append(seen, real)
		}
	}
	p := pruner{ctx: ctx, old: o, dryRun: dryRun, may: may, done: map[string]bool{}}
	for _, dir := range seen {
		if err := p.walk(dir, 0); err != nil {
			return p.pruned, err
		}
	}
	return p.pruned, errors.Join(p.errs...)
}

// pruner walks directories of profiles.
type pruner struct {
	ctx    context.Context //nolint:containedctx // lives as long as one call
	old    Old
	dryRun bool
	may    func(string) bool
	done   map[string]bool
	pruned []Generation
	errs   []error
}

// maxDepth is as deep as profiles lie in anybody's.
const maxDepth = 16

func (p *pruner) walk(dir string, depth int) error {
	if p.done[dir] || depth > maxDepth {
		return nil
	}
	p.done[dir] = true
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			p.errs = append(p.errs, err)
		}
		return nil
	}
	writable := unix.Access(dir, unix.W_OK) == nil
	for _, e := range entries {
		if err := context.Cause(p.ctx); err != nil {
			return err
		}
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			if err := p.walk(path, depth+1); err != nil {
				return err
			}
			continue
		}
		if e.Type() != fs.ModeSymlink || !writable || !isProfile(path) || p.may != nil && !p.may(path) {
			continue
		}
		gone, err := Prune(p.ctx, path, p.old, p.dryRun)
		p.pruned = append(p.pruned, gone...)
		if err != nil {
			p.errs = append(p.errs, err)
		}
	}
	return nil
}

// isProfile tells whether a symlink leads to a generation of its own name.
func isProfile(path string) bool {
	target, err := os.Readlink(path)
	if err != nil {
		return false
	}
	_, ok := number(filepath.Base(path), filepath.Base(target))
	return ok
}
