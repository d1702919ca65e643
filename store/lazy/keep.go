package lazy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/strata-nix/strata/fileindex"
)

// maxUnkept is how many chunks are kept in memory that the disk had no room for, of an object.
const maxUnkept = 64

// maxFresh is how many bytes of all objects are in memory that are still to be written to disk.
const maxFresh = 16 << 20

// writers is how many of them are written at once.
const writers = 4

// put makes a chunk readable that was compared, and has it written to disk when that goes: nobody who waits for it
// waits for the disk as well. When too much is on its way there, it waits itself.
func (pt *partial) put(j *pieceJob, n int, k fileindex.Chunk, data []byte, from string) {
	pt.mu.Lock()
	pt.fresh[n], pt.from = data, from
	pt.busy++
	pt.markLocked(n)
	delete(pt.jobs, n)
	close(j.arrived[n])
	pt.mu.Unlock()
	f := pt.o.fetch
	_ = f.fresh.Acquire(context.Background(), k.Size) // nothing ends it, and no chunk is that large
	f.idle.Go(func() {
		f.writing <- struct{}{}
		pt.keep(n, k, data)
		<-f.writing
		f.fresh.Release(k.Size)
	})
}

// keep writes a chunk to disk. What that has no room for stays in memory for a while.
func (pt *partial) keep(n int, k fileindex.Chunk, data []byte) {
	c := pt.o.s.o.Cache
	err := c.makeWay(0)
	if err == nil {
		err = c.writeChunk(pt.x.Contents, k, data)
	}
	if isFull(err) && c.makeWay(maxFresh) == nil {
		err = c.writeChunk(pt.x.Contents, k, data)
	}
	pt.mu.Lock()
	delete(pt.fresh, n)
	if err != nil {
		pt.remember(n, data)
	}
	last := err == nil && pt.allOnDisk(k)
	pt.mu.Unlock()
	if last {
		if err = c.completeFile(context.Background(), pt.x.Contents, k.Node); errors.Is(err, errHoles) || errors.Is(err, fs.ErrNotExist) {
			pt.unmarkFile(k.Node)
			err = nil
		}
	}
	if err != nil {
		pt.o.s.count.through.Add(1)
		pt.o.s.complain("keep "+c.Dir(), fmt.Errorf("files are not kept in '%s': %w", c.Dir(), err))
	}
	pt.mu.Lock()
	defer pt.mu.Unlock()
	pt.busy--
	pt.ended()
	pt.rest()
}

// rest tells those who wait when there is nothing more to do. pt.mu is held.
func (pt *partial) rest() {
	if pt.busy+pt.graduating == 0 && pt.idle != nil {
		close(pt.idle)
		pt.idle = nil
	}
}

// settle waits until nothing is on its way to the disk, and what is complete is among the objects.
func (pt *partial) settle(ctx context.Context) error {
	pt.mu.Lock()
	if pt.busy+pt.graduating == 0 {
		pt.mu.Unlock()
		return nil
	}
	if pt.idle == nil {
		pt.idle = make(chan struct{})
	}
	idle := pt.idle
	pt.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// remember keeps a chunk in memory, and lets another one go. pt.mu is held.
func (pt *partial) remember(n int, data []byte) {
	for old := range pt.unkept { // any will do
		if len(pt.unkept) < maxUnkept {
			break
		}
		delete(pt.unkept, old)
		if pt.hasLocked(old) {
			pt.have[old/64] &^= 1 << (old % 64)
			pt.left++
		}
	}
	pt.unkept[n] = data
}

// allOnDisk tells whether all chunks are on disk of a file that has several. pt.mu is held.
func (pt *partial) allOnDisk(k fileindex.Chunk) bool {
	first, end := pt.x.Contents.Chunks(k.Node)
	if end-first == 1 {
		return false // it was written as a whole
	}
	// The same chunk is missing most of the time, and a file can have very many.
	begin := max(first, pt.holes[k.Node])
	for n := range end - first {
		i := first + (begin-first+n)%(end-first)
		if !pt.hasLocked(i) || pt.fresh[i] != nil || pt.unkept[i] != nil {
			pt.holes[k.Node] = i
			return false
		}
	}
	delete(pt.holes, k.Node)
	return true
}
