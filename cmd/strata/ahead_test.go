package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// readOne reads one large thing ahead.
func readOne(ctx context.Context, after <-chan struct{}, open func(context.Context) (io.ReadCloser, error)) *aheadReader {
	a := newAheadReader(ctx, aheadChunk, open)
	readAhead(after, []*aheadReader{a})
	return a
}

func TestReadingAheadGivesTheSame(t *testing.T) {
	for _, n := range []int{0, 1, aheadChunk - 1, aheadChunk, aheadChunk + 1, 3*aheadChunk + 7} {
		want := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		for how, r := range map[string]io.Reader{"at once": bytes.NewReader(want), "in halves": iotest.HalfReader(bytes.NewReader(want)),
			"with its end": iotest.DataErrReader(bytes.NewReader(want))} {
			a := readOne(t.Context(), closed(), func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil })
			if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d %s: %d bytes, %v", n, how, len(got), err)
			}
			_ = a.Close()
		}
	}
}

func TestReadingAheadPassesOnErrors(t *testing.T) {
	bad := errors.New("bad")
	for _, open := range []func(context.Context) (io.ReadCloser, error){
		func(context.Context) (io.ReadCloser, error) { return nil, bad },
		func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, aheadChunk+5)), iotest.ErrReader(bad))), nil
		},
	} {
		a := readOne(t.Context(), closed(), open)
		if _, err := io.ReadAll(a); !errors.Is(err, bad) {
			t.Error(err)
		}
		_ = a.Close()
	}
}

// endless never ends, and counts what was taken.
type endless struct{ taken int }

func (e *endless) Read(p []byte) (int, error) { e.taken += len(p); return len(p), nil }
func (e *endless) Close() error               { return nil }

func TestReadingAheadHasALimitAndATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := make(chan struct{})
		src := &endless{}
		a := readOne(t.Context(), turn, func(context.Context) (io.ReadCloser, error) { return src, nil })
		synctest.Wait()
		if src.taken > 0 {
			t.Error("it began before its turn")
		}
		close(turn)
		synctest.Wait()
		if most := (aheadChunks + 1) * aheadChunk; src.taken > most || src.taken == 0 {
			t.Errorf("it took %d bytes", src.taken)
		}
		select {
		case <-a.begun:
		default:
			t.Error("it has not said that it began")
		}
		_ = a.Close()
		// One whose turn never comes ends, too.
		_ = readOne(t.Context(), make(chan struct{}), nil).Close()
	})
}

// slots is a store that gives few NARs at a time, as a daemon does over one
// connection.
type slots struct {
	store.Store
	free chan struct{}
}

// OpenNar implements store.NarOpener.
func (s *slots) OpenNar(ctx context.Context, p storepath.Path) (io.ReadCloser, error) {
	select {
	case s.free <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var b bytes.Buffer
	source, _ := store.As[store.NarSource](s.Store)
	if err := source.NarFromPath(ctx, p, &b); err != nil {
		return nil, err
	}
	return &slot{&b, s}, nil
}

type slot struct {
	io.Reader
	s *slots
}

// Close gives the slot back.
func (s *slot) Close() error { <-s.s.free; return nil }

func TestStreamsOfObjectsWhateverTheSourceCanDo(t *testing.T) {
	src := memstore.New(storepath.DefaultDir)
	var infos []*store.PathInfo
	add := func(o storetest.Object) {
		if err := src.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
		infos = append(infos, o.Info)
	}
	for i, o := range storetest.Chain(t, storepath.DefaultDir, 40) {
		add(o)
		if i%7 == 0 { // more than is read ahead
			add(storetest.File(t, storepath.DefaultDir, fmt.Sprint("large", i), string(bytes.Repeat([]byte{byte(i)}, 2*aheadChunks*aheadChunk))))
		}
	}
	for _, n := range []int{1, 2, 100} {
		dst := memstore.New(storepath.DefaultDir)
		// What is there already is passed over by the destination, unread.
		if err := dst.Add(t.Context(), infos[0], bytes.NewReader(narOf(t, src, infos[0].Path)), store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
		tr := &transfer{src: &slots{src, make(chan struct{}, n)}, dst: dst}
		for _, info := range infos {
			tr.items = append(tr.items, item{info, info})
		}
		done := 0
		if err := tr.run(t.Context(), func(storepath.Path) { done++ }); err != nil || done != len(infos) {
			t.Errorf("%d slots: %d of %d, %v", n, done, len(infos), err)
		}
	}
}

func narOf(t *testing.T, st store.Store, p storepath.Path) []byte {
	t.Helper()
	r, err := store.OpenNar(t.Context(), st, p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
