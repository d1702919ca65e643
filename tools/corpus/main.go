// Command corpus makes input for stores out of Debian packages: see package
// internal/corpus for what it is like.
//
//	go run ./tools/corpus metadata -o FILE             paths of whole suites, no trees
//	go run ./tools/corpus objects -small -out DIR      real trees of some 50 packages
//	go run ./tools/corpus objects -out DIR             of 250 packages, 2.7 GB
//	go run ./tools/corpus trees -n 100000 -out DIR     small invented objects
//	go run ./tools/corpus lock -small -o FILE          pin package files anew
//
// The objects are at DIR/nix/store, and DIR/registration is what
// `nix-store --load-db` reads. The mirror is the one in the machine's APT
// sources unless -mirror says otherwise; downloads are checked and kept.
//
// Exit status: 0 done, 1 something failed, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/strata-nix/strata/internal/corpus"
	"github.com/strata-nix/strata/internal/debian"
)

// commands are the subcommands; each takes its own flags.
var commands = map[string]func(ctx context.Context, name string, args []string) error{
	"metadata": metadata,
	"objects":  objects,
	"trees":    trees,
	"lock":     lock,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: corpus metadata|objects|trees|lock [flags]   (-h after one of them for its flags)")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](ctx, os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "corpus:", err)
		os.Exit(1)
	}
}

// archiveFlags adds the flags of the archive client; what they say is in the
// archive once they are parsed.
func archiveFlags(fs *flag.FlagSet) (*debian.Archive, error) {
	mirror, err := debian.Mirror()
	if err != nil && !errors.Is(err, debian.ErrNoMirror) {
		return nil, err
	}
	cache := filepath.Join(os.TempDir(), "strata-debs")
	if d, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(d, "strata", "debs")
	}
	a := new(debian.Archive)
	fs.StringVar(&a.URL, "mirror", mirror, "base `URL` of the Debian archive (default: from the APT sources)")
	fs.StringVar(&a.Cache, "cache", cache, "`directory` where downloads are kept")
	fs.DurationVar(&a.Pause, "pause", debian.DefaultPause, "between downloads")
	return a, nil
}

func metadata(ctx context.Context, name string, args []string) error {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	a, err := archiveFlags(flags)
	if err != nil {
		return err
	}
	var o corpus.MetadataOptions
	suites := flags.String("suites", strings.Join(corpus.Suites, ","), "comma-separated `suites`")
	flags.IntVar(&o.Variants, "variants", 1, "how many distinct copies of each suite's graph")
	flags.IntVar(&o.Limit, "limit", 0, "stop after so many paths, at a closed set (0: all)")
	flags.BoolVar(&o.NoDerivers, "no-derivers", false, "leave the derivers out")
	out := flags.String("o", "-", "the registration `file` (-: standard output)")
	stats := flags.String("stats", "", "write counts and the largest closures to this `file` instead of standard error")
	flags.Parse(args)
	o.Suites = strings.Split(*suites, ",")
	return withOutput(*out, os.Stdout, func(reg io.Writer) error {
		return withOutput(*stats, os.Stderr, func(st io.Writer) error {
			return corpus.Metadata(ctx, a, o, reg, st)
		})
	})
}

func objects(ctx context.Context, name string, args []string) error {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	a, err := archiveFlags(flags)
	if err != nil {
		return err
	}
	small := flags.Bool("small", false, "the small corpus, whose packages are pinned in the source tree")
	lockFile := flags.String("lock", "", "`file` that pins the packages; written when missing (default: objects.lock in the cache)")
	out := flags.String("out", "", "output `directory`, empty or new (required)")
	flags.Parse(args)
	if *out == "" {
		return errors.New("-out is required")
	}
	pins, err := corpus.Small()
	if !*small {
		if *lockFile == "" {
			*lockFile = filepath.Join(a.Cache, "objects.lock")
		}
		pins, err = readOrMakeLock(ctx, a, *lockFile)
	}
	if err != nil {
		return err
	}
	return corpus.Objects(ctx, a, pins, *out, os.Stderr)
}

func trees(ctx context.Context, name string, args []string) error {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	var o corpus.TreesOptions
	flags.IntVar(&o.N, "n", 1000, "how many objects")
	flags.IntVar(&o.Pool, "pool", 500, "how many distinct data files")
	flags.IntVar(&o.Fan, "fan", 8, "object i refers to object (i-1)/fan; 0: only to itself")
	flags.Int64Var(&o.Seed, "seed", 1, "another seed gives other objects")
	flags.BoolVar(&o.Empty, "empty", false, "make every object an empty file")
	out := flags.String("out", "", "output `directory`, empty or new (required)")
	flags.Parse(args)
	if *out == "" {
		return errors.New("-out is required")
	}
	return corpus.Trees(ctx, o, *out)
}

func lock(ctx context.Context, name string, args []string) error {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	a, err := archiveFlags(flags)
	if err != nil {
		return err
	}
	small := flags.Bool("small", false, "pin the packages of the small corpus")
	bench := flags.Bool("bench", false, "pin the packages of the corpus for benchmarks")
	programs := flags.Bool("programs", false, "pin the packages of programs that tests run")
	out := flags.String("o", "-", "lock `file` (-: standard output)")
	flags.Parse(args)
	names, suites := corpus.Full(), corpus.Suites
	switch {
	case *small:
		names, suites = corpus.SmallNames(), corpus.SmallSuites
	case *bench:
		names, suites = corpus.BenchNames(), corpus.BenchSuites
	case *programs:
		names, suites = corpus.ProgramsNames(), corpus.BenchSuites
	}
	pins, err := corpus.Choose(ctx, a, names, suites)
	if err != nil {
		return err
	}
	return withOutput(*out, os.Stdout, func(w io.Writer) error { return corpus.WriteLock(w, pins) })
}

// readOrMakeLock pins the packages of the full corpus on first use.
func readOrMakeLock(ctx context.Context, a *debian.Archive, file string) ([]corpus.Pin, error) {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		return corpus.ReadLock(f)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	pins, err := corpus.Choose(ctx, a, corpus.Full(), corpus.Suites)
	if err != nil {
		return nil, err
	}
	return pins, withOutput(file, nil, func(w io.Writer) error { return corpus.WriteLock(w, pins) })
}

// withOutput calls f with the named file, made afresh, or with std for "" and "-".
func withOutput(name string, std *os.File, f func(io.Writer) error) error {
	if name == "" || name == "-" {
		return f(std)
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f(file), file.Close())
}
