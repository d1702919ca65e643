package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/suggest"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/overlay"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/worker"
)

// stores are the kinds of store that can be opened, by the scheme of their URI.
// An opener reads all parameters before it touches anything, so that a mistake
// among them changes nothing.
var stores map[string]func(context.Context, *config, store.Reference) (store.Store, error)

func init() { // openers of layered stores lead back here
	stores = map[string]func(context.Context, *config, store.Reference) (store.Store, error){
		"auto":          openAuto,
		"local":         openLocal,
		"local-overlay": openOverlay,
		"unix":          openDaemon,
		"ssh":           openSSH,
		"ssh-ng":        openSSHNG,
		"file":          openFileCache,
		"http":          openHTTPCache,
		"https":         openHTTPCache,
		"s3":            openS3,
		"lazy":          openLazy,
	}
}

// open opens a store. The caller closes it.
func (c *config) open(ctx context.Context, ref store.Reference) (store.Store, error) {
	opener, ok := stores[ref.Scheme]
	if !ok {
		return nil, &usageError{fmt.Errorf("don't know how to open Nix store with scheme '%s'%s", ref.Scheme, kindMeant(ref.Scheme))}
	}
	return opener(ctx, c, ref)
}

// parseReference reads a store URI, and has an idea when it is none.
func parseReference(uri string) (store.Reference, error) {
	ref, err := store.ParseReference(uri)
	if err != nil {
		kind, _, _ := strings.Cut(uri, "?")
		if hint := kindMeant(kind); hint != "" {
			err = fmt.Errorf("%w%s", err, hint)
		}
	}
	return ref, err
}

// kindMeant ends an error about a kind of store that there is not.
func kindMeant(kind string) string {
	if near := suggest.Near(kind, append(slices.Collect(maps.Keys(stores)), "daemon")); near != "" && near != kind {
		return fmt.Sprintf("; did you mean '%s'?", near)
	}
	return ""
}

// Parameters that Nix knows of each store and that mean nothing to ours: they
// are about substituting, building, or a cache that we do not have.
var generalParams = []string{
	"path-info-cache-size", "trusted", "priority", "want-mass-query", "system-features",
	"build-dir", "ignore-gc-delete-failure",
}

// localOptions reads the parameters that local stores and those that are built on
// them have.
func (c *config) localOptions(p *params) local.Options {
	p.ignore(generalParams...)
	o := c.local
	o.Pool = c.pool
	o.Dir = c.storeDir(p)
	o.Root = p.path("root", "")
	if at := p.ref.Authority; at != "" && o.Root == "" {
		if !filepath.IsAbs(at) {
			p.fail("root", "has value '%s', which is not an absolute path", at)
		}
		o.Root = filepath.Clean(at)
	}
	if o.Root == "" {
		o.State, o.Log = c.stateDir, c.logDir
	}
	o.Real = p.path("real", "")
	o.State = p.path("state", o.State)
	o.Log = p.path("log", o.Log)
	o.ReadOnly = p.flag("read-only", false)
	o.UseRootsDaemon = p.flag("use-roots-daemon", false)
	o.RequireSigs = p.flag("require-sigs", o.RequireSigs)
	o.SkipLeases = p.texts("skip-lease")
	if place := p.text("leases", ""); place != "" {
		var err error
		if o.Leases, err = c.leases(context.Background(), place); err != nil { // nothing is asked yet
			p.fail("leases", "cannot be used: %v", err)
		}
	}
	o.URI = p.ref.String()
	return o
}

func (c *config) storeDir(p *params) storepath.Dir {
	text := p.text("store", string(c.dir))
	dir, err := storepath.ParseDir(text)
	if err != nil {
		p.fail("store", "has value '%s', which cannot be a store directory", text)
	}
	return dir
}

func openLocal(ctx context.Context, c *config, ref store.Reference) (store.Store, error) {
	p := newParams(ref)
	o := c.localOptions(p)
	if err := p.end(); err != nil {
		return nil, err
	}
	return local.Open(ctx, o)
}

func openDaemon(ctx context.Context, c *config, ref store.Reference) (store.Store, error) {
	p := newParams(ref)
	p.ignore(generalParams...)
	socket := c.socketOf(ref)
	o := worker.ClientOptions{
		Dir:              c.storeDir(p),
		URI:              ref.String(),
		Options:          c.daemonOptions(),
		MaxConnections:   p.number("max-connections", 0),
		MaxConnectionAge: time.Duration(p.number("max-connection-age", 0)) * time.Second,
	}
	if socket == c.socket && ref.Authority == "" && len(ref.Params) == 0 {
		o.URI = "daemon"
	}
	// Where the daemon's objects are: here, if we see its store directory.
	root := p.path("root", "")
	real := p.path("real", filepath.Join(root, string(o.Dir)))
	if root != "" {
		real = p.path("real", filepath.Join(root, string(storepath.DefaultDir)))
	}
	_, _ = p.path("state", ""), p.path("log", "") // for clients that read logs and databases
	if err := p.end(); err != nil {
		return nil, err
	}
	client, err := worker.NewClient(ctx, worker.DialUnix(socket), o)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(real); err == nil && fi.IsDir() {
		return client.Directory(real), nil
	}
	return client, nil
}

// socketOf is the path of the socket that a unix reference means.
func (c *config) socketOf(ref store.Reference) string {
	if ref.Authority == "" {
		return c.socket
	}
	if path, err := filepath.Abs(ref.Authority); err == nil {
		return path
	}
	return ref.Authority
}

func openOverlay(ctx context.Context, c *config, ref store.Reference) (store.Store, error) {
	p := newParams(ref)
	o := overlay.Options{
		Upper:        c.localOptions(p),
		UpperLayer:   p.path("upper-layer", ""),
		NoCheckMount: !p.flag("check-mount", true),
		RemountHook:  p.path("remount-hook", ""),
		Tolerant:     c.tolerant,
	}
	lowers, err := c.lowers(p.texts("lower-store"))
	if err := errors.Join(err, p.end()); err != nil {
		return nil, &usageError{err}
	}
	deadline := time.Now().Add(c.waitForLowers)
	for first := true; ; first = false {
		st, err := c.openLayers(ctx, o, lowers)
		var usage *usageError
		if err == nil || errors.As(err, &usage) || (!first || c.waitForLowers <= 0) && time.Now().After(deadline) {
			return st, err
		}
		if first {
			activity.Logf(ctx, activity.Warn, "warning: waiting at most %s: %v", c.waitForLowers, err)
		}
		select {
		case <-time.After(lowerPoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lowerPoll is how often a layered store is tried whose lowers are missing.
const lowerPoll = 200 * time.Millisecond

// lowers reads the references of lower stores. Without any it is the one that
// Nix takes.
func (c *config) lowers(uris []string) ([]store.Reference, error) {
	if len(uris) == 0 {
		uris = []string{"auto"}
	}
	var refs []store.Reference
	for _, uri := range uris {
		ref, err := parseReference(uri)
		if err != nil {
			return nil, fmt.Errorf("setting 'lower-store': %w", err)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

func (c *config) openLayers(ctx context.Context, o overlay.Options, lowers []store.Reference) (store.Store, error) {
	opened := make([]store.Store, 0, len(lowers))
	for _, ref := range lowers {
		st, err := c.open(ctx, ref)
		if err != nil {
			err = fmt.Errorf("cannot open lower store '%s': %w", ref, err)
			for _, o := range opened {
				err = errors.Join(err, o.Close())
			}
			return nil, err
		}
		opened = append(opened, st)
	}
	st, err := overlay.Open(ctx, o, opened)
	if err != nil {
		return nil, err
	}
	return st, nil
}

func openAuto(ctx context.Context, c *config, ref store.Reference) (store.Store, error) {
	return c.open(ctx, c.resolveAuto(ctx, ref))
}
