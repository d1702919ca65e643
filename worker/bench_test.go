package worker

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// BenchmarkIsValidPath is the shortest operation: all of it is the protocol.
func BenchmarkIsValidPath(b *testing.B) {
	w := newWorld(b)
	c := client(b, server(b, Session{Store: w}), ClientOptions{})
	paths := []storepath.Path{w.hello}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.ValidPaths(b.Context(), paths); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIsValidPath16 has sixteen clients, with a connection each, that do
// nothing else.
func BenchmarkIsValidPath16(b *testing.B) {
	w := newWorld(b)
	dial := server(b, Session{Store: w})
	b.SetParallelism(8) // for two processors
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		n.Add(1)
		nc, err := dial(b.Context())
		if err != nil {
			b.Error(err)
			return
		}
		defer nc.Close()
		k := &conn{nc: nc, in: &decoder{Reader: wire.NewReader(nc), dir: w.Dir()}, out: &encoder{Writer: wire.NewWriter(nc), dir: w.Dir()}}
		if err := k.greet(b.Context(), Latest); err != nil {
			b.Error(err)
			return
		}
		for pb.Next() {
			k.out.Uint64(opIsValidPath)
			k.out.path(w.hello)
			_ = k.out.Flush()
			if k.in.Uint64() != msgLast || !k.in.Bool() {
				b.Error(k.in.Err())
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// BenchmarkPathInfos asks for a thousand infos in one pipeline.
func BenchmarkPathInfos(b *testing.B) {
	w := newWorld(b)
	c := client(b, server(b, Session{Store: w}), ClientOptions{})
	paths := make([]storepath.Path, 1000)
	for i := range paths {
		paths[i] = w.user
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.PathInfos(b.Context(), paths); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "infos/s")
}

// BenchmarkUpload sends one large archive to a store that throws it away.
func BenchmarkUpload(b *testing.B) {
	const size = 64 << 20
	w := newWorld(b)
	h := &hashing{world: w}
	c := client(b, server(b, Session{Store: h, Trusted: true}), ClientOptions{})
	info := w.foreign(b.Context())
	b.SetBytes(size)
	for b.Loop() {
		if err := c.Add(b.Context(), info, largeArchive(size), store.AddOptions{NoCheckSigs: true}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUploadMany sends a thousand small objects in one request.
func BenchmarkUploadMany(b *testing.B) {
	w := newWorld(b)
	h := &hashing{world: w}
	c := client(b, server(b, Session{Store: discarding{h}, Trusted: true}), ClientOptions{})
	info := w.foreign(b.Context())
	archive := w.nar(b.Context(), w.hello)
	b.ReportAllocs()
	for b.Loop() {
		o := new(objects)
		for range 1000 {
			o.infos, o.nars = append(o.infos, info), append(o.nars, archive)
		}
		if err := c.AddMultiple(b.Context(), o, store.AddOptions{NoCheckSigs: true}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "objects/s")
}

// BenchmarkNarFromPath fetches one large archive.
func BenchmarkNarFromPath(b *testing.B) {
	const size = 64 << 20
	w := newWorld(b)
	c := client(b, server(b, Session{Store: &sending{w, size}}), ClientOptions{})
	b.SetBytes(size)
	for b.Loop() {
		if err := c.NarFromPath(b.Context(), w.hello, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// discarding reads all objects at the speed at which they come.
type discarding struct{ *hashing }

func (discarding) AddMultiple(_ context.Context, src store.ObjectSource, _ store.AddOptions) error {
	for {
		_, r, err := src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
}

// sending has one large object.
type sending struct {
	*world
	size int64
}

func (s *sending) NarFromPath(_ context.Context, _ storepath.Path, w io.Writer) error {
	_, err := io.Copy(w, largeArchive(s.size))
	return err
}
