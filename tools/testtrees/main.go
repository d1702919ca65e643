// Command testtrees prepares what the tests would otherwise make on first use:
// a Debian tree with stock Nix of each version, the small corpus, and an S3
// server. They go to the test cache, see testenv.CacheDir; what is there already costs nothing.
//
//	go run ./tools/testtrees [-keep-going]
//
// Exit status: 0 all there, 1 something could not be made. With -keep-going a
// machine that cannot have something is no failure: the tests that need it are
// skipped and counted.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/strata-nix/strata/internal/testenv"
)

func main() {
	keepGoing := flag.Bool("keep-going", false, "exit 0 although something could not be made")
	verbose := flag.Bool("v", false, "show the output of what is run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var log io.Writer = io.Discard
	if *verbose {
		log = os.Stderr
	}
	if !prepare(ctx, log) && !*keepGoing {
		os.Exit(1)
	}
}

// prepare makes everything, two things at a time: making a tree is half
// waiting for the network and half unpacking.
func prepare(ctx context.Context, log io.Writer) (ok bool) {
	type job struct {
		what string
		make func() (string, error)
	}
	jobs := []job{
		{"small corpus", func() (string, error) { return testenv.SmallCorpus(ctx, true, log) }},
		{"S3 server", func() (string, error) { return testenv.S3Binary(ctx, true, log) }},
	}
	for _, v := range testenv.NixVersions() {
		jobs = append(jobs, job{"stock Nix " + v, func() (string, error) { return testenv.Tree(ctx, v, true, log) }})
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, 2)
	)
	ok = true
	for _, j := range jobs {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			start := time.Now()
			dir, err := j.make()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				ok = false
				fmt.Fprintf(os.Stderr, "testtrees: %s: %v\n", j.what, err)
				return
			}
			fmt.Fprintf(os.Stderr, "testtrees: %s: %s (%.0f s)\n", j.what, dir, time.Since(start).Seconds())
		})
	}
	wg.Wait()
	return ok
}
