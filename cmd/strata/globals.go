package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// globals is what all commands have: their streams, and the flags that each of
// them takes.
type globals struct {
	stdin  io.Reader
	out    *output
	stderr io.Writer
	args0  string // as which we were called

	storeURI  string
	options   []string // "NAME=VALUE"
	verbose   int
	quiet     bool
	logFormat string

	progress *progress  // once a command runs
	alive    []*os.File // open until the process ends, for others to notice that
	// supervisor is the process that ends with the command of 'strata run'; nil: there is none.
	supervisor *os.File
	kept       keptLowers      // of an earlier run of the service
	keepers    []chan struct{} // of mounts of lazy lowers; closed when they have ended
	cfg        *config         // see config()
}

func (g *globals) addFlags(f *pflag.FlagSet) {
	f.StringVar(&g.storeURI, "store", "", "the store to use, as a `URI` (default: NIX_REMOTE, or what nix.conf says, or auto)")
	f.StringArrayVar(&g.options, "option", nil, "override a setting of nix.conf: --option `NAME VALUE`")
	f.CountVarP(&g.verbose, "verbose", "v", "tell more; may be repeated")
	f.BoolVar(&g.quiet, "quiet", false, "tell only warnings and errors")
	f.StringVar(&g.logFormat, "log-format", "text", "how to write log lines: `text or json`")
}

// start begins what a command reports to, after the flags are known.
func (g *globals) start(ctx context.Context) (context.Context, error) {
	if g.logFormat != "text" && g.logFormat != "json" {
		return ctx, &usageError{fmt.Errorf("unknown log format '%s'; there are text and json", g.logFormat)}
	}
	g.progress = newProgress(g.stderr, levelOf(g.verbose, g.quiet), g.logFormat == "json")
	g.out.before = g.progress.hide
	return activity.With(ctx, g.progress), nil
}

// log is where a long-running command logs to.
func (g *globals) log() *slog.Logger {
	return newLogger(g.stderr, levelOf(g.verbose, g.quiet), g.logFormat == "json")
}

// config reads configuration, once.
func (g *globals) config() (*config, error) {
	if g.cfg != nil {
		return g.cfg, nil
	}
	c, err := loadConfig(os.LookupEnv, g.options)
	if err != nil {
		return nil, &usageError{err}
	}
	for _, w := range c.warnings {
		g.progress.Log(activity.Warn, "warning: "+w)
	}
	c.tell = func(line string) { g.progress.Log(activity.Error, line) }
	c.log = g.log()
	g.cfg = c
	return c, nil
}

// open opens the store that the command is about. The caller closes it.
func (g *globals) open(ctx context.Context) (store.Store, error) {
	return g.openURI(ctx, g.storeURI)
}

// openURI opens a store by its URI, "" for the one that is configured. The
// caller closes it.
func (g *globals) openURI(ctx context.Context, uri string) (store.Store, error) {
	c, err := g.config()
	if err != nil {
		return nil, err
	}
	ref, err := c.reference(uri)
	if err != nil {
		return nil, &usageError{err}
	}
	return c.open(ctx, ref)
}

// openDestination opens a store to write to by its URI, "" for the one that is
// configured. The caller closes it.
func (g *globals) openDestination(ctx context.Context, uri string) (store.Store, error) {
	c, err := g.config()
	if err != nil {
		return nil, err
	}
	ref, err := c.reference(uri)
	if err != nil {
		return nil, &usageError{err}
	}
	return c.destination().open(ctx, ref)
}

// storeDir is the store directory of a store that need not be opened for that, so
// that arguments can be read before anything is touched.
func (g *globals) storeDir(uri string) (storepath.Dir, error) {
	c, err := g.config()
	if err != nil {
		return "", err
	}
	ref, err := c.reference(uri)
	if err != nil {
		return "", &usageError{err}
	}
	dir, err := c.dirOf(ref)
	if err != nil {
		return "", &usageError{err}
	}
	return dir, nil
}

// objects reads arguments that name store objects of the store.
func (g *globals) objects(args []string) ([]storepath.Path, error) {
	dir, err := g.storeDir(g.storeURI)
	if err != nil {
		return nil, err
	}
	return parseObjects(dir, args)
}

// with opens the store, lets do work with it, and closes it.
func (g *globals) with(ctx context.Context, do func(store.Store) error) (err error) {
	st, err := g.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := st.Close(); err == nil {
			err = cerr
		}
	}()
	return do(st)
}
