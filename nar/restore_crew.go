package nar

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A crew makes small files and symlinks. Its helpers are started when the first
// batch is full, so that small objects do without; when they are all busy, the
// restorer makes a batch itself. Objects are made in no particular order, which
// the reference counts of restoreDir allow.
type crew struct {
	maker   *maker
	batch   *batch      // being gathered
	queue   chan *batch // nil until there are helpers
	helpers sync.WaitGroup

	mu  sync.Mutex
	err error // the first
}

// A job is a file to make, or a symlink if it has a target.
type job struct {
	dir        *restoreDir // a reference is held
	name       string
	executable bool
	data       []byte // in batch.data
	target     string
}

// A batch is what is passed to a helper at once.
type batch struct {
	jobs []job
	data []byte // a buffer of the pool, filled from the front
}

const (
	batchJobs  = 64 // bounds the directories that are kept open for jobs
	maxHelpers = 3
)

// job adds one with room for size bytes of data, which the caller fills before
// the next call.
func (c *crew) job(ctx context.Context, dir *restoreDir, name string, size int) (*job, error) {
	if b := c.batch; b != nil && (len(b.jobs) == batchJobs || cap(b.data)-len(b.data) < size) {
		if err := c.dispatch(ctx); err != nil {
			return nil, err
		}
	}
	if c.batch == nil {
		c.batch = &batch{jobs: make([]job, 0, batchJobs), data: newBuffer()}
	}
	b := c.batch
	from, to := len(b.data), len(b.data)+size
	b.data = b.data[:to]
	dir.refs.Add(1)
	b.jobs = append(b.jobs, job{dir: dir, name: name, data: b.data[from:to:to]})
	return &b.jobs[len(b.jobs)-1], nil
}

// dispatch has the present batch made, by somebody else if possible.
func (c *crew) dispatch(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if c.queue == nil {
		c.start(min(runtime.GOMAXPROCS(0)-1, maxHelpers))
	}
	b := c.batch
	c.batch = nil
	select {
	case c.queue <- b:
	default:
		c.make(b)
	}
	return c.failure()
}

func (c *crew) start(helpers int) {
	c.queue = make(chan *batch, helpers)
	for range helpers {
		c.helpers.Go(func() {
			for b := range c.queue {
				c.make(b)
			}
		})
	}
}

// wait makes what is left and ends the helpers.
func (c *crew) wait() error {
	if c.batch != nil {
		c.make(c.batch)
		c.batch = nil
	}
	if c.queue != nil {
		close(c.queue)
		c.helpers.Wait()
	}
	return c.failure()
}

// make works off a batch; after an error it only gives up the references.
func (c *crew) make(b *batch) {
	for i := range b.jobs {
		j := &b.jobs[i]
		if c.failure() == nil {
			c.fail(c.maker.make(j))
		}
		c.release(j.dir)
	}
	freeBuffer(b.data)
}

// release gives up a reference to a directory; the last one finishes it.
func (c *crew) release(d *restoreDir) {
	for d.parent != nil && d.refs.Add(-1) == 0 {
		if c.failure() == nil {
			c.fail(d.fail("chmod", "", c.maker.finishDirectory(d)))
		}
		unix.Close(d.fd)
		d = d.parent
	}
}

func (c *crew) fail(err error) {
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err == nil {
			c.err = err
		}
	}
}

func (c *crew) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
