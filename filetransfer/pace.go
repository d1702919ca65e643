package filetransfer

import (
	"context"
	"time"
)

// A pace keeps a download from being faster than it may.
type pace struct {
	speed int64 // bytes per second, 0 for any
	since time.Time
	bytes int64 // since then
}

// slice is how often a second the pace is held.
const slice = 10

// limit is how much to read at once.
func (p *pace) limit(n int) int {
	if p.speed <= 0 {
		return n
	}
	return int(min(int64(n), max(1, p.speed/slice)))
}

// spend waits for the time that n bytes take.
func (p *pace) spend(ctx context.Context, n int) error {
	if p.speed <= 0 {
		return nil
	}
	now := time.Now()
	due := p.since.Add(time.Duration(float64(p.bytes) / float64(p.speed) * float64(time.Second)))
	if now.Sub(due) > time.Second/slice {
		// What was not used while nobody read is not made up for.
		p.since, p.bytes, due = now, 0, now
	}
	p.bytes += int64(n)
	if wait := due.Sub(now); wait > 0 {
		return sleep(ctx, wait)
	}
	return nil
}
