package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What comes is counted for all that a reader descends from, and numbers that are used again are others.
func TestReaders(t *testing.T) {
	pids, line := ancestry(os.Getpid())
	if len(pids) < 2 || pids[0] != os.Getpid() || pids[1] != os.Getppid() || line[0].parent != os.Getppid() || line[0].start < line[1].start {
		t.Fatalf("%v %v", pids, line)
	}
	r := newReaders()
	add := func(pid, parent int, start, bytes uint64) {
		r.of(pid, readerProcess{parent: parent, start: start}).bytes += bytes
	}
	add(10, 5, 100, 7)
	add(11, 5, 100, 1)
	add(10, 5, 100, 3)
	add(20, 6, 100, 100)
	for _, tt := range []struct {
		parent      int
		since, want uint64
	}{{5, 0, 11}, {5, 100, 11}, {5, 101, 0}, {6, 50, 100}, {7, 0, 0}} {
		if got := r.below(tt.parent, tt.since); got != tt.want {
			t.Errorf("below %d since %d: %d", tt.parent, tt.since, got)
		}
	}
	add(11, 5, 200, 50) // the number is another one's now
	if got := r.below(5, 101); got != 50 {
		t.Errorf("of the new one: %d", got)
	}
	if got := r.below(5, 0); got != 60 {
		t.Errorf("of both: %d", got)
	}
	for pid := range 2 * maxReaders {
		add(1000+pid, 1, 1, 1)
		add(10, 5, 100, 0) // it is still there
	}
	if n := len(r.young) + len(r.old); n > 2*maxReaders {
		t.Errorf("%d are remembered", n)
	}
	if got := r.below(5, 0); got != 10 {
		t.Errorf("what is used is remembered: %d", got)
	}
	if r.account(context.Background()) != nil {
		t.Error("nobody asked")
	}
}

// The socket is reached however long the path of its directory is, and made again after a kill.
func TestReadersAreAsked(t *testing.T) {
	for _, depth := range []int{1, 20} {
		state := filepath.Join(t.TempDir(), strings.Repeat("a-directory/", depth))
		if err := os.MkdirAll(state, 0o755); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time the socket of the first is there
			r := newReaders()
			r.of(10, readerProcess{parent: 5, start: 100}).bytes += 7
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- r.serve(ctx, state) }()
			var bytes uint64
			var err error
			for end := time.Now().Add(time.Minute); time.Now().Before(end) && len(ended) == 0; time.Sleep(5 * time.Millisecond) {
				if bytes, err = askReaders(ctx, state, 5, 0); err == nil {
					break
				}
			}
			if err != nil || bytes != 7 {
				t.Errorf("%d bytes: %d, %v", len(state), bytes, err)
			}
			stop()
			if err := <-ended; err != nil {
				t.Errorf("%d bytes: %v", len(state), err)
			}
		}
	}
}
