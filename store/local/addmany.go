package local

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/strata-nix/strata/store"
)

// Small objects of a stream are read into memory, so that one question to the
// database, one visit to the temporary roots, and all processors serve many of
// them: asked one by one, those take longer than making the files.
const (
	smallObject = 64 << 10 // bytes of a NAR
	smallBytes  = 1 << 20  // of all together, which are kept in memory, and once more while they are added
)

// AddMultiple adds many objects, registered in batches, see [store.MultiAdder]. While small
// objects are added, the next are read: whoever sends them does not wait meanwhile.
func (s *Store) AddMultiple(ctx context.Context, src store.ObjectSource, o store.AddOptions) error {
	b, err := s.newBatch(ctx, o)
	if err != nil {
		return err
	}
	m := &many{b: b}
	defer b.close(ctx)
	if err := m.add(ctx, src); err != nil {
		_ = m.wait()                          // it is err, or came with it
		return errors.Join(err, b.flush(ctx)) // what is complete is right and stays
	}
	return b.flush(ctx)
}

// many is an AddMultiple under way.
type many struct {
	b      *addBatch  // belongs to who adds, if anybody is at work
	adding chan error // tells how that ended; nil: nobody is
	next   gathering  // comes after what is in b
	spare  []byte     // an arena that nobody uses
}

// add adds until src ends. Nobody is at work when it returns.
func (m *many) add(ctx context.Context, src store.ObjectSource) error {
	for {
		info, narStream, err := src.Next()
		small := err == nil && info.NarSize <= smallObject
		if m.next.full() || !small && len(m.next.list) > 0 {
			if err := m.handOver(ctx); err != nil {
				return err
			}
		}
		if small {
			m.next.gather(info, narStream)
			continue
		}
		werr := m.wait()
		if errors.Is(err, io.EOF) {
			return werr
		}
		if err = errors.Join(werr, err); err == nil && m.b.due(info) {
			err = m.b.flush(ctx)
		}
		if err == nil {
			err = m.b.add(ctx, info, narStream)
		}
		if err != nil {
			return err
		}
	}
}

// handOver has what was gathered added, when what came before it has been.
func (m *many) handOver(ctx context.Context) error {
	if err := m.wait(); err != nil {
		return err
	}
	g := m.next
	m.next = gathering{arena: m.spare[:0]}
	m.spare = g.arena // until wait it is in use, and nobody takes it before
	m.adding = make(chan error, 1)
	go func() {
		err := m.b.addSmall(ctx, g.list)
		if err == nil && m.b.full() {
			err = m.b.flush(ctx)
		}
		m.adding <- err
	}()
	return nil
}

// wait waits until nobody adds anything.
func (m *many) wait() error {
	if m.adding == nil {
		return nil
	}
	err := <-m.adding
	m.adding = nil
	return err
}

// due tells whether what waits is to be registered before an object is read.
func (b *addBatch) due(next *store.PathInfo) bool {
	return b.full() || len(b.items) > 0 && next.NarSize >= batchAlone
}

// full tells that no more is to wait.
func (b *addBatch) full() bool {
	return len(b.items)+len(b.adopt) >= batchPaths || b.bytes >= batchBytes || len(b.items) > 0 && time.Since(b.since) >= batchAge
}

// gathering is small objects that were read.
type gathering struct {
	list  []*gathered
	arena []byte    // their NARs
	since time.Time // when the first of them came
}

// gather reads a small object. What is wrong with its contents shows when it is
// unpacked, as with any other.
func (g *gathering) gather(info *store.PathInfo, narStream io.Reader) {
	if len(g.list) == 0 {
		g.since = time.Now()
	}
	size := int(info.NarSize) //nolint:gosec // a small object
	g.arena = slices.Grow(g.arena, size)
	from := len(g.arena)
	n, err := io.ReadFull(narStream, g.arena[from:from+size])
	if err == io.ErrUnexpectedEOF { //nolint:errorlint // of ReadFull itself: there was less than promised
		err = io.EOF
	}
	g.arena = g.arena[:from+n]
	g.list = append(g.list, &gathered{info: info, nar: g.arena[from : from+n : from+n], err: err})
}

// full tells that no more is to be gathered.
func (g *gathering) full() bool {
	return len(g.list) >= batchPaths || len(g.arena) >= smallBytes || len(g.list) > 0 && time.Since(g.since) >= batchAge
}
