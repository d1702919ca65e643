package gc

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// strays are the entries of the store directory that are not valid paths and
// that nobody holds on to. One reads the directory, others compare.
func (c *collection) strays(ctx context.Context) ([]string, error) {
	dir, err := os.Open(c.Deletable)
	if err != nil {
		return nil, fmt.Errorf("listing the store directory: %w", err)
	}
	defer func() { _ = dir.Close() }()
	var (
		workers = min(max(runtime.GOMAXPROCS(0), 2), 8)
		free    = make(chan []byte, 2*workers)
		full    = make(chan []byte, 2*workers)
		mu      sync.Mutex
		out     []string
		wg      sync.WaitGroup
	)
	for range cap(free) {
		free <- make([]byte, direntBuffer)
	}
	for range workers {
		wg.Go(func() {
			var found []string
			var look strayLook
			for b := range full {
				found = look.in(c, b, found)
				free <- b[:cap(b)]
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, found...)
		})
	}
	for err == nil && ctx.Err() == nil {
		b := <-free
		var n int
		if n, err = getdents(int(dir.Fd()), b); n == 0 {
			break
		}
		full <- b[:n]
	}
	close(full)
	wg.Wait()
	slices.Sort(out)
	if err == nil {
		err = context.Cause(ctx)
	}
	return out, err
}

// strayLook is the memory of one that compares.
type strayLook struct {
	names   [][]byte
	numbers []int32
}

// in adds the strays of a part of a directory.
func (l *strayLook) in(c *collection, b []byte, found []string) []string {
	l.names = l.names[:0]
	_ = decodeDirents(b, func(e dirent) error {
		// A character device is OverlayFS's way to say that there is nothing.
		if e.kind != unix.DT_CHR {
			l.names = append(l.names, e.name)
		}
		return nil
	})
	l.numbers = slices.Grow(l.numbers[:0], len(l.names))[:len(l.names)]
	c.graph.FindBases(l.names, l.numbers)
	for i, n := range l.numbers {
		if n < 0 && c.isStray(string(l.names[i])) {
			found = append(found, string(l.names[i]))
		}
	}
	return found
}
