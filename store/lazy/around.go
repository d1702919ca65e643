package lazy

import (
	"context"
	"time"

	"github.com/strata-nix/strata/fileindex"
)

// several tells whether the file of a chunk has others.
func (pt *partial) several(k fileindex.Chunk) bool {
	return pt.x.Contents.Tree().Node(k.Node).Size > fileindex.ChunkSize
}

// missing tells whether a chunk is neither here nor on its way, and no part of a large file that is not the one of
// node: nobody reads those by the way. pt.mu is held.
func (pt *partial) missing(n int, k fileindex.Chunk, node uint32, several bool) (missing, suits bool) {
	suits = k.Node == node || !several && !pt.several(k)
	return suits && !pt.hasLocked(n) && pt.jobs[n] == nil, suits
}

// neighbours is where those of the chunks between from and to end that follow chunk i without a gap and are worth
// fetching with it. pt.mu is held.
func (pt *partial) neighbours(i int, from, to int64) (end int64) {
	c := pt.x.Contents
	node := c.Chunk(i).Node
	several := pt.several(c.Chunk(i))
	end = from
	for n, k := range c.Within(from, to) {
		if missing, _ := pt.missing(n, k, node, several); !missing || pt.seemsHere(k) {
			break
		}
		end = k.Nar + k.Size
	}
	return end
}

// used takes note of a chunk that is read.
func (pt *partial) used(i int) {
	k := pt.x.Contents.Chunk(i)
	pt.mu.Lock()
	came := bit(pt.guess.marks, i)
	pt.guess.note(k, i, 0)
	room, worth := pt.guess.room(pt.several(k), time.Now()), pt.guess.worth()
	pt.mu.Unlock()
	if came {
		pt.o.s.count.guessedRead.Add(k.Size)
		if room >= worth {
			pt.o.fetch.idle.Go(func() { pt.lookAround(i, room) })
		}
	}
}

// suspect takes note of the chunks of a job behind a place: those come before anybody has asked. pt.mu is held.
func (pt *partial) suspect(j *pieceJob, behind int64) {
	for _, n := range j.chunks {
		if k := pt.x.Contents.Chunk(n); k.Nar >= behind {
			pt.guess.spend(k, n)
			pt.o.s.count.guessed.Add(k.Size)
		}
	}
}

// lookAround fetches up to room bytes of what is likely to be read next, now that a chunk is: what is nearest behind it,
// and else before it. It does not wait.
func (pt *partial) lookAround(i int, room int64) {
	for room >= worthGuess {
		pt.mu.Lock()
		idle := !pt.whole && len(pt.unkept) == 0 && pt.guess.flying < guessesAtOnce
		pt.mu.Unlock()
		if !idle || !pt.o.gate.try() {
			return
		}
		j := pt.guessed(i, room)
		if j == nil {
			pt.o.gate.leave()
			return
		}
		room -= j.to - j.from
		pt.o.fetch.idle.Go(func() {
			defer pt.o.gate.leave()
			<-j.done
		})
	}
}

// guessed begins a job for room bytes of what is missing near a chunk; nil if there is nothing.
func (pt *partial) guessed(i int, room int64) *pieceJob {
	from, to := pt.gapBehind(i, room)
	if from == to {
		from, to = pt.gapBefore(i, room)
	}
	if from == to {
		return nil
	}
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.guess.flying >= guessesAtOnce || pt.guess.room(pt.several(pt.x.Contents.Chunk(i)), time.Now()) < min(room, to-from) {
		return nil // somebody else was quicker
	}
	from, to = pt.x.Span(from, to-from)
	j := pt.jobOf(from, to)
	if len(j.chunks) == 0 {
		return nil
	}
	j.ahead, j.guessed = true, true
	pt.suspect(j, 0)
	pt.guess.flying++
	pt.begin(context.Background(), j)
	return j
}

// bring fetches a part of a file ahead. It waits for it if wait is set, and tells whether it is here.
func (pt *partial) bring(ctx context.Context, node uint32, off, size int64, wait bool) bool {
	c := pt.x.Contents
	first, end := c.Chunks(node)
	from := first + int(off/fileindex.ChunkSize)
	to := min(end, first+int((off+size+fileindex.ChunkSize-1)/fileindex.ChunkSize))
	for i := from; i < to; {
		if pt.onItsWay(i) {
			i++
			continue
		}
		n := i + 1
		for n < to && n-i < int(maxGuess/fileindex.ChunkSize) && !pt.onItsWay(n) {
			n++
		}
		if !pt.bringRun(ctx, i, n-1) {
			return false
		}
		i = n
	}
	for i := from; wait && i < to; i++ {
		if !pt.arrives(ctx, i) {
			return false
		}
	}
	return true
}

// onItsWay tells whether a chunk is here, or will be without anything being done.
func (pt *partial) onItsWay(i int) bool {
	pt.mu.Lock()
	coming := pt.jobs[i] != nil
	pt.mu.Unlock()
	return coming || pt.look(i)
}

// bringRun begins a job for the chunks of a file from first to last.
func (pt *partial) bringRun(ctx context.Context, first, last int) bool {
	if pt.o.gate.enter(ctx) != nil {
		return false
	}
	k, end := pt.x.Contents.Chunk(first), pt.x.Contents.Chunk(last)
	from, to := pt.x.Span(k.Nar, end.Nar+end.Size-k.Nar)
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.whole || time.Now().Before(pt.guess.calm) {
		pt.o.gate.leave()
		return false
	}
	j := pt.jobOf(from, to)
	if len(j.chunks) == 0 {
		pt.o.gate.leave()
		return true
	}
	j.ahead = true
	pt.o.s.count.ahead.Add(int64(len(j.chunks)))
	pt.begin(ctx, j)
	pt.o.fetch.idle.Go(func() {
		defer pt.o.gate.leave()
		<-j.done
	})
	return true
}

// arrives waits for a chunk that is on its way, and tells whether it is here then.
func (pt *partial) arrives(ctx context.Context, i int) bool {
	pt.mu.Lock()
	j := pt.jobs[i]
	var arrived chan struct{}
	if j != nil {
		arrived = j.arrived[i]
	}
	pt.mu.Unlock()
	if j != nil {
		select {
		case <-arrived:
		case <-j.done:
		case <-ctx.Done():
		}
	}
	return pt.has(i)
}

// copy reads from a file of which all that is read is here, and tells whether it was.
func (pt *partial) copy(node uint32, p []byte, off int64) bool {
	c := pt.x.Contents
	first, _ := c.Chunks(node)
	for done := 0; done < len(p); {
		i := first + int((off+int64(done))/fileindex.ChunkSize)
		k := c.Chunk(i)
		at := off + int64(done) - k.Offset
		b := p[done:min(len(p), done+int(k.Size-at))]
		if data := pt.inMemory(i); data != nil {
			copy(b, data[at:])
		} else if !pt.has(i) || pt.o.s.o.Cache.readPiece(c, k, b, k.Offset+at) != nil {
			return false
		}
		done += len(b)
	}
	return true
}
