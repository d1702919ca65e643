package lazy

import (
	"time"

	"github.com/strata-nix/strata/fileindex"
)

// Bounds of what comes before anybody asks for it, in bytes of the NAR.
const (
	// firstGuess is what comes with the first file that is read of an object; with each further one for which somebody
	// has to wait it doubles, up to maxGuess: so much a line of 100 Mbit/s and 20 ms takes hardly longer for than
	// for nothing at all. maxReadOn is for a file that is read on and on.
	firstGuess = fileindex.BlockSize
	maxGuess   = 1 << 20
	maxReadOn  = 8 << 20
	// worthGuess is the least that is fetched by a request of its own.
	worthGuess = fileindex.ChunkSize
	// So much may be here that nobody has read: guessSlack, and as much as was fetched for those who waited, and of what
	// had come before it was read so many times as much. One place of a large file says less of another one than a
	// small file of those around it.
	guessSlack             = 256 << 10
	smallReward, bigReward = 4, 2
	// maxUnread is how much of it may be here at most, however much was read: the fastest lines have no more under way.
	maxUnread = 4 * maxReadOn
	// smallWhole is up to which size a file of several chunks comes as a whole when its beginning is read.
	smallWhole = 512 << 10
	// guessesAtOnce is how many such requests are under way for an object.
	guessesAtOnce = 2
)

// guessing decides how much of an object comes before anybody asks for it: more and more, as long as most of it
// is read, as of the library of an interpreter. Of all that comes only a bounded part is in vain, whatever
// a program reads.
type guessing struct {
	missed int64     // bytes that were fetched for who waited
	hit    int64     // bytes that were read and had come before
	unread int64     // bytes that came besides and that nobody has read
	marks  []uint64  // a bit for each chunk of those
	flying int       // requests
	misses int       // how often somebody had to wait
	last   int       // the chunk that was read last
	readOn bool      // it followed the one before in the same file
	filled [2]filled // where to look is in vain: for small files, and for large ones
	calm   time.Time // until then nothing comes ahead: something has failed
}

func newGuessing(chunks int) guessing {
	return guessing{marks: make([]uint64, (chunks+63)/64), last: -1}
}

// note takes note of a chunk that is read; fetched is what has to be fetched for it.
func (g *guessing) note(k fileindex.Chunk, i int, fetched int64) {
	if g.last != i {
		g.readOn = k.Offset > 0 && g.last == i-1
		g.last = i
	}
	if fetched > 0 {
		g.misses++
		g.missed += fetched
	}
	if bit(g.marks, i) {
		g.lost(k, i)
		g.hit += k.Size
	}
}

// spend takes note of a chunk that is fetched before anybody has asked for it.
func (g *guessing) spend(k fileindex.Chunk, i int) {
	if !bit(g.marks, i) {
		g.marks[i/64] |= 1 << (i % 64)
		g.unread += k.Size
	}
}

// lost takes note of one that is not unread any more: it was read, or has not come.
func (g *guessing) lost(k fileindex.Chunk, i int) {
	if bit(g.marks, i) {
		g.marks[i/64] &^= 1 << (i % 64)
		g.unread -= k.Size
	}
}

// room is how much may come now around a file that has several chunks or not.
func (g *guessing) room(several bool, now time.Time) int64 {
	if now.Before(g.calm) {
		return 0
	}
	window := int64(maxReadOn)
	if !g.readOn {
		window = min(int64(firstGuess)<<min(max(0, g.misses-1), 10), maxGuess)
	}
	reward := int64(smallReward)
	if several {
		reward = bigReward
	}
	return max(0, min(window, min(guessSlack+g.missed+reward*g.hit, maxUnread)-g.unread))
}

// worth is the least that is fetched by a request of its own: of a file that is read on and on much comes at once.
func (g *guessing) worth() int64 {
	if g.readOn && g.hit > maxReadOn {
		return maxReadOn / 4
	}
	return worthGuess
}
