package lazy

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/strata-nix/strata/fileindex"
)

// However a program reads, of what comes ahead only a bounded part is in vain.
func TestGuessesAreBounded(t *testing.T) {
	now := time.Now()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		const chunks, size = 4096, 32 << 10
		g := newGuessing(chunks)
		here := make([]bool, chunks)
		used := int64(0)
		likely := r.Float64() // how often what came is read
		for range 2000 {
			i := r.IntN(chunks)
			k := fileindex.Chunk{Size: size}
			if !here[i] {
				here[i] = true
				used += size
				g.note(k, i, size)
				for room, n := g.room(false, now), i+1; room >= size && n < chunks; n++ {
					if here[n] {
						continue
					}
					here[n] = true
					g.spend(k, n)
					room -= size
				}
			} else if bit(g.marks, i) && r.Float64() < likely {
				used += size
				g.note(k, i, 0)
			}
			marked := int64(0)
			for n := range chunks {
				if bit(g.marks, n) {
					marked += size
				}
			}
			if marked != g.unread {
				t.Fatalf("%d bytes are unread, and not %d", marked, g.unread)
			}
			if limit := min(guessSlack+smallReward*used, maxUnread); marked > limit {
				t.Fatalf("%d bytes are here that nobody has read, and %d were read", marked, used)
			}
		}
	}
	g := newGuessing(10)
	g.calm = now.Add(time.Second)
	if n := g.room(true, now); n != 0 {
		t.Errorf("%d bytes may come after a failure", n)
	}
}

// Windows double with each wait, and a file that is read on gets more.
func TestGuessesGrow(t *testing.T) {
	now := time.Now()
	g := newGuessing(1000)
	var windows []int64
	for i := range 8 {
		g.note(fileindex.Chunk{Size: 128 << 10}, 100*i, 1<<20)
		windows = append(windows, g.room(false, now)>>10)
	}
	if w := windows; w[0] != 64 || w[1] != 128 || w[2] != 256 || w[3] != 512 || w[4] != 1024 || w[7] != 1024 {
		t.Errorf("windows of %d KiB", w)
	}
	g.note(fileindex.Chunk{Offset: 128 << 10, Size: 128 << 10}, 701, 1<<20)
	if n := g.room(true, now); n < 4<<20 || n > maxReadOn {
		t.Errorf("%d bytes for a file that is read on", n)
	}
}
