package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// load is what the load client is to do.
//
//	bench load -socket S -paths FILE [-op isvalid] [-conns 16] [-time 3s] [-batch 100]
//
// FILE is a list of store paths, from which paths are drawn at random, from the
// same seed each time. What came of it goes to standard output as JSON. The
// client is a process of its own so that its memory and time are not those of
// whoever measures.
type load struct {
	Socket, Paths, Op string
	Conns             int
	Time              time.Duration
	Batch             int
	// Least is how many requests each connection makes at least, however long that
	// takes.
	Least int
	Root  string // whose closure is walked
}

// loaded is what came of it.
type loaded struct {
	Requests int     `json:"requests"`
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50"` // µs
	P99      float64 `json:"p99"` // µs
	Max      float64 `json:"max"` // µs
	// First sums up the answers to the first request of each connection, which
	// do not depend on how many were made.
	First int `json:"first"`
}

func loadMain(ctx context.Context, args []string) error {
	var l load
	f := flag.NewFlagSet(loadName, flag.ExitOnError)
	f.StringVar(&l.Socket, "socket", "", "the daemon's `SOCKET`")
	f.StringVar(&l.Paths, "paths", "", "`FILE` with store paths, one a line")
	f.StringVar(&l.Op, "op", "isvalid", "what to ask: one of the table in ask.go")
	f.IntVar(&l.Conns, "conns", 1, "how many connections")
	f.DurationVar(&l.Time, "time", 3*time.Second, "for how long")
	f.IntVar(&l.Batch, "batch", 100, "paths of one request that takes a set")
	f.IntVar(&l.Least, "least", 1, "how many requests each connection makes at least")
	f.StringVar(&l.Root, "root", "", "the path whose closure is walked")
	f.Parse(args)
	got, err := l.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}

// args is the command line that makes another process do it.
func (l load) args() []string {
	return []string{benchPath, loadName, "-socket", l.Socket, "-paths", l.Paths, "-op", l.Op, "-conns", fmt.Sprint(l.Conns),
		"-time", l.Time.String(), "-batch", fmt.Sprint(l.Batch), "-least", fmt.Sprint(l.Least), "-root", l.Root}
}

// run puts the load on the daemon.
func (l load) run(ctx context.Context) (loaded, error) {
	all, err := openList(l.Paths)
	if err != nil {
		return loaded{}, err
	}
	ask, err := l.asker()
	if err != nil {
		return loaded{}, err
	}
	workers := make([]*asking, l.Conns)
	for i := range workers {
		workers[i] = &asking{l: l, all: all, rnd: rand.New(rand.NewPCG(uint64(i), 1))}
		workers[i].drawAhead()
		if l.Op == opConnect {
			continue
		}
		if workers[i].c, err = dial(ctx, l.Socket); err != nil {
			return loaded{}, err
		}
		defer workers[i].c.conn.Close()
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { w.err = w.work(ctx, ask, begin) })
	}
	wg.Wait()
	return sum(workers, time.Since(begin))
}

// asking is one connection at work.
type asking struct {
	l   load
	c   *client
	all *list
	rnd *rand.Rand

	ahead [][]string // requests that were drawn before it began
	took  []time.Duration
	first int
	err   error
}

func (w *asking) work(ctx context.Context, ask asker, begin time.Time) error {
	for i := 0; i < w.l.Least || time.Since(begin) < w.l.Time; i++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		set := w.next()
		at := time.Now()
		n, err := ask(ctx, w, set)
		if err != nil {
			return err
		}
		w.took = append(w.took, time.Since(at))
		if i == 0 {
			w.first = n
		}
	}
	return nil
}

// drawnAhead is how many paths are drawn beforehand, for all connections together: more
// than are asked about in half a second.
const drawnAhead = 1 << 19

// drawAhead draws while nobody is waiting for it. A path that has not been looked at costs
// nearly as much to draw as to ask about, and takes that from the processors that the
// daemon shares.
func (w *asking) drawAhead() {
	if w.l.Op == opConnect {
		return
	}
	for range drawnAhead / (w.l.Batch * w.l.Conns) {
		w.ahead = append(w.ahead, w.draw())
	}
}

// next gives the paths of the next request.
func (w *asking) next() []string {
	if len(w.ahead) == 0 {
		return w.draw()
	}
	set := w.ahead[0]
	w.ahead = w.ahead[1:]
	return set
}

// draw chooses the paths of the next request.
func (w *asking) draw() []string {
	set := make([]string, w.l.Batch)
	for i := range set {
		set[i] = w.all.path(w.rnd.IntN(w.all.len()))
	}
	return set
}

func sum(workers []*asking, took time.Duration) (loaded, error) {
	var (
		all  []time.Duration
		got  loaded
		errs []error
	)
	for _, w := range workers {
		all = append(all, w.took...)
		got.First += w.first
		errs = append(errs, w.err)
	}
	if err := errors.Join(errs...); err != nil {
		return got, err
	}
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))]) / 1e3 }
	got.Requests, got.Seconds = len(all), took.Seconds()
	got.P50, got.P99, got.Max = at(0.5), at(0.99), at(1)
	return got, nil
}

// asker makes one request and gives a number that sums up the answer.
type asker func(ctx context.Context, w *asking, set []string) (int, error)

// opConnect is the one that needs no connection.
const opConnect = "connect"

// asker finds the operation in the table.
func (l *load) asker() (asker, error) {
	type op struct {
		set bool // of Batch paths; else of one
		ask func(w *asking, set []string) int
	}
	ops := map[string]op{
		opConnect:  {},
		"isvalid":  {ask: func(w *asking, set []string) int { return count(w.c.isValid(set[0])) }},
		"unknown":  {ask: func(w *asking, set []string) int { return count(w.c.isValid(spoil(set[0]))) }},
		"pathinfo": {ask: func(w *asking, set []string) int { refs, _ := w.c.pathInfo(set[0]); return len(refs) }},
		"hashpart": {ask: func(w *asking, set []string) int { return count(w.c.fromHashPart(filepath.Base(set[0])[:32])) }},

		"validpaths": {true, func(w *asking, set []string) int { return w.c.validPaths(set) }},
		"missing":    {true, func(w *asking, set []string) int { return w.c.missing(set) }},
		"referrers":  {ask: func(w *asking, set []string) int { return w.c.referrers(set[0]) }},
		"all":        {ask: func(w *asking, _ []string) int { return w.c.allPaths() }},
		"closure":    {ask: func(w *asking, _ []string) int { return w.closure(w.l.Root) }},
	}
	o, ok := ops[l.Op]
	if !ok {
		return nil, fmt.Errorf("there is no operation %q", l.Op)
	}
	if !o.set {
		l.Batch = 1
	}
	if l.Op == opConnect {
		return connect, nil
	}
	return func(_ context.Context, w *asking, set []string) (int, error) {
		n := o.ask(w, set)
		return n, w.c.err()
	}, nil
}

// connect is a whole connection with one question.
func connect(ctx context.Context, w *asking, set []string) (int, error) {
	c, err := dial(ctx, w.l.Socket)
	if err != nil {
		return 0, err
	}
	defer c.conn.Close()
	n := count(c.isValid(set[0]))
	return n, c.err()
}

// closure walks references, one question for each path.
func (w *asking) closure(root string) int {
	seen := map[string]bool{root: true}
	for todo := []string{root}; len(todo) > 0 && w.c.err() == nil; {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		refs, _ := w.c.pathInfo(p)
		for _, r := range refs {
			if !seen[r] {
				seen[r] = true
				todo = append(todo, r)
			}
		}
	}
	return len(seen)
}

func count(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// spoil makes a path that is well formed and not valid.
func spoil(path string) string {
	const at = len("/nix/store/")
	return path[:at] + "00000000000000000000" + path[at+20:]
}
