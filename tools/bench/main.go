// Command bench measures strata against stock Nix, side by side, and writes
// doc/benchmarks.md.
//
//	go run ./tools/bench                       everything, a good while
//	go run ./tools/bench -run 'isvalid|nar'    only rows whose name matches
//	go run ./tools/bench -long-pairs 0         without the rows that take minutes
//	go run ./tools/bench -list                 what rows there are
//	go run ./tools/bench -smoke                small inputs, for correctness only
//
// A row runs the same workload on both sides, in turn (stock, strata, stock, …),
// and shows the ratio of the medians and the median of the pairs' ratios. What
// both sides answer must be equal, or the row fails. A row that cannot run says
// why.
//
// Everything happens in one world: a mount and a PID namespace whose root is the
// Debian tree with stock Nix that the tests use, and in which strata is shown. So
// nothing that is mounted or started there outlives the command, however it
// ends. Where writing files is part of the workload they go to a tmpfs, so that
// the disk's own cost stays out of the figures.
//
// Results are kept as JSON beside the table, both written after each row: a run
// of some rows, or one that was interrupted, replaces just these. A row that
// fails, hangs, or takes the world with it says so in the table, and the others
// go on. The inputs are those of internal/corpus, kept in the test cache.
//
// "bench load" is the load client by itself: see load.go.
//
// Exit status: 0 all rows ran, 1 something failed, 2 wrong usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// What argv[1] of processes in the world is.
const (
	innerName  = "-inner" // measures
	unpackName = "-unpack"
	loadName   = "load" // the load client
)

// options are the flags, as the process in the world gets them too.
type options struct {
	Run       string        // regexp of row names
	Scale     float64       // of counts, 1 is what the issue of the table is about
	Pairs     int           // how often each side runs
	LongPairs int           // the same for rows that take minutes; 0 leaves them out
	Time      time.Duration // of one measurement of load
	Smoke     bool
}

func main() {
	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) > 0 && args[0] == loadName {
		return loadMain(ctx, args[1:])
	}
	if len(args) == 3 && args[0] == unpackName {
		return unpackNAR(ctx, args[1], args[2])
	}
	if len(args) == 2 && args[0] == innerName {
		var s spec
		if err := json.Unmarshal([]byte(args[1]), &s); err != nil {
			return err
		}
		return inner(ctx, s)
	}
	return outer(ctx, args)
}

// outer reads the flags, makes the inputs, has the rows run in the world, and
// writes down what came of it.
func outer(ctx context.Context, args []string) error {
	var (
		o    options
		list bool
		json = "doc/benchmarks.json"
		out  = "doc/benchmarks.md"
		dir  string
		bin  = "bin/strata"
	)
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	f.StringVar(&o.Run, "run", "", "run only rows whose name matches `REGEXP`")
	f.Float64Var(&o.Scale, "scale", 1, "multiply the sizes of inputs by `FACTOR`; another one than 1 writes nothing down")
	f.IntVar(&o.Pairs, "pairs", 5, "run each row `N` times on each side")
	f.IntVar(&o.LongPairs, "long-pairs", 2, "the same for rows of which one run takes minutes; 0 leaves them out")
	f.DurationVar(&o.Time, "time", 500*time.Millisecond, "how long one measurement of load takes")
	f.BoolVar(&o.Smoke, "smoke", false, "run everything once on small inputs, to see that answers are equal")
	f.BoolVar(&list, "list", false, "list the rows and do nothing")
	f.StringVar(&json, "json", json, "keep results in `FILE`")
	f.StringVar(&out, "o", out, "write the table into `FILE`, between its marks")
	f.StringVar(&bin, "strata", bin, "the `BINARY` to measure")
	f.StringVar(&dir, "dir", os.TempDir(), "work below `DIR`, on a disk with some 8 GB")
	f.Parse(args)
	if f.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	if o.Smoke {
		o.Scale, o.Pairs, o.LongPairs, o.Time = smokeScale, 1, 1, 100*time.Millisecond
	}
	rows, err := choose(o)
	if err != nil {
		return err
	}
	if list {
		for _, r := range rows {
			fmt.Printf("%-28s %s\n", r.name, r.what)
		}
		return nil
	}
	kept, err := readResults(json)
	if err != nil {
		return err
	}
	failed := 0
	// Each row is written down when it has run: whatever happens to the rest, it is kept.
	err = runInWorld(ctx, o, dir, bin, rows, func(r row, res *result) error {
		if res.Why != "" {
			failed++
		}
		kept.Rows[r.name] = res
		if o.Scale != 1 {
			return nil
		}
		return errors.Join(kept.write(json), writeReport(out, kept))
	})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d rows failed", failed)
	}
	return err
}

// choose gives the rows that the options are about, those that take minutes
// last: whoever has not the time for them stops when only they are left.
func choose(o options) ([]row, error) {
	re, err := regexp.Compile(o.Run)
	if err != nil {
		return nil, err
	}
	var rows, long []row
	for _, r := range allRows(o) {
		switch {
		case !re.MatchString(r.name):
		case !r.long:
			rows = append(rows, r)
		case o.LongPairs > 0:
			long = append(long, r)
		}
	}
	return append(rows, long...), nil
}
