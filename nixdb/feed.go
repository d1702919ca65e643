package nixdb

import (
	"iter"
	"sync"
)

// A feed reads registrations ahead, in a goroutine, so that they are understood by one processor while
// another writes.
type feed struct {
	chunks chan []Registration
	spare  chan []Registration // used ones
	quit   chan struct{}
	err    error // why there are no more; set before chunks is closed
	reader sync.WaitGroup
}

const (
	feedChunk = 256 // registrations that are handed over at once
	feedAhead = 8   // chunks
)

func newFeed(regs iter.Seq2[Registration, error], chunk int) *feed {
	f := &feed{chunks: make(chan []Registration, feedAhead), spare: make(chan []Registration, feedAhead), quit: make(chan struct{})}
	f.reader.Go(func() {
		defer close(f.chunks)
		have := make([]Registration, 0, chunk)
		for r, err := range regs {
			if err != nil {
				f.err = err
				return
			}
			if have = append(have, r); len(have) < chunk {
				continue
			}
			select {
			case f.chunks <- have:
			case <-f.quit:
				return
			}
			select {
			case have = <-f.spare:
			default:
				have = make([]Registration, 0, chunk)
			}
		}
		select {
		case f.chunks <- have:
		case <-f.quit:
		}
	})
	return f
}

// batch gives at least n registrations, in the space of old, or what is left.
func (f *feed) batch(n int, old []Registration) ([]Registration, error) {
	clear(old)
	batch := old[:0]
	for len(batch) < n {
		chunk, ok := <-f.chunks
		if !ok {
			if f.err != nil {
				return nil, f.err
			}
			break
		}
		batch = append(batch, chunk...)
		clear(chunk)
		select {
		case f.spare <- chunk[:0]:
		default:
		}
	}
	return batch, nil
}

// stop ends the reading, as soon as what is being read has come.
func (f *feed) stop() {
	close(f.quit)
	f.reader.Wait()
}
