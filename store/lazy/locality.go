package lazy

import "github.com/strata-nix/strata/fileindex"

// Bounds of what comes along when small files are read that lie near each other, in bytes of the
// NAR.
const (
	// near is how far apart they are at most.
	near = 512 << 10
	// maxAround is how much comes with one of them at most.
	maxAround = 256 << 10
)

// locality notices that a program reads one small file after the other of the same directories, as
// an interpreter does with its library. Each of them would cost a round trip, though most of what lies
// around is wanted next. So more and more comes along, as long as that is where it reads.
type locality struct {
	recent [8]int64 // where the last fetches ended
	next   int
	grown  int64
}

// more is how many bytes behind to are worth fetching with those from from to to.
func (l *locality) more(from, to int64) int64 {
	hit := false
	for _, at := range l.recent {
		hit = hit || at > 0 && from > at-near && from < at+near
	}
	l.recent[l.next] = to
	l.next = (l.next + 1) % len(l.recent)
	switch {
	case !hit:
		l.grown = 0
	case l.grown == 0:
		l.grown = fileindex.BlockSize
	default:
		l.grown = min(2*l.grown, maxAround)
	}
	return l.grown
}

// neighbours is where those of the chunks between from and to end that follow without a gap: none is here,
// or on its way, or part of a large file, which nobody reads by the way. pt.mu is held.
func (pt *partial) neighbours(from, to int64) (end int64) {
	c := pt.x.Contents
	end = from
	for n := range c.Within(from, to) {
		k := c.Chunk(n)
		if pt.hasLocked(n) || pt.jobs[n] != nil || c.Tree().Node(k.Node).Size > fileindex.ChunkSize {
			break
		}
		end = k.Nar + k.Size
	}
	return end
}
