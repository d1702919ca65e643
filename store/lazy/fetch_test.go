package lazy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/storepath"
)

func TestFetchedOnceForAll(t *testing.T) {
	o := tree(t, "o")
	from := newOrigin(t, "a", o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { s.wants(o.Path(), "bin/hello", "hello from o") })
		all.Go(func() { s.wants(o.Path(), "share/empty", "") })
	}
	all.Wait()
	if n := from.nars(); n != 1 {
		t.Errorf("%d NARs were fetched", n)
	}
}

func TestNothingIsFetchedToLook(t *testing.T) {
	o := tree(t, "o")
	from := newOrigin(t, "a", o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	if _, _, err := s.find(t.Context(), o.Path(), "bin/hello"); err != nil {
		t.Error(err)
	}
	if n := from.nars(); n != 0 {
		t.Errorf("%d NARs were fetched", n)
	}
	s.store.Counts()
}

// spoil makes an origin give other NARs than it promised.
func spoil(o *origin, how func(body io.ReadCloser) io.ReadCloser) *origin {
	o.Body = func(name string, body io.ReadCloser) io.ReadCloser {
		if strings.HasPrefix(name, "nar/") {
			return how(body)
		}
		return body
	}
	return o
}

type body struct {
	io.Reader
	io.Closer
}

func cut(b io.ReadCloser) io.ReadCloser { return body{io.LimitReader(b, 100), b} }

func flip(b io.ReadCloser) io.ReadCloser {
	data, _ := io.ReadAll(b)
	data[len(data)/2] ^= 1
	return body{bytes.NewReader(data), b}
}

func breaks(b io.ReadCloser) io.ReadCloser {
	return body{io.MultiReader(io.LimitReader(b, 50), failing{}), b}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestSpoiltContents(t *testing.T) {
	o := tree(t, "o")
	for name, how := range map[string]func(io.ReadCloser) io.ReadCloser{"cut": cut, "flipped": flip, "broken": breaks} {
		t.Run(name, func(t *testing.T) {
			bad := spoil(newOrigin(t, "bad", o), how)
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{bad.trusted()}}, lazy.CacheOptions{})
			for range 3 { // not tried again at once
				if got, err := s.read(t.Context(), o.Path(), "bin/hello"); err == nil || got != "" {
					t.Errorf("%q, %v", got, err)
				}
			}
			if n := bad.nars(); n != 1 {
				t.Errorf("%d attempts", n)
			}
			if n := strings.Count(s.logged(), "cannot be had"); n != 1 {
				t.Errorf("logged %d times:\n%s", n, s.logged())
			}
			if n := s.store.Counts().Failed; n != 1 {
				t.Errorf("counted %d times", n)
			}
			if s.cache.Has(o.Path()) {
				t.Error("it is kept")
			}
		})
		t.Run(name+", with another origin", func(t *testing.T) {
			bad, good := spoil(newOrigin(t, "bad", o), how), newOrigin(t, "good", o)
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{bad.trusted(), good.trusted()}}, lazy.CacheOptions{})
			s.wants(o.Path(), "bin/hello", "hello from o")
		})
	}
}

// Another cache has another object by the same name: it is not the one that was promised.
func TestAnotherObjectByThatName(t *testing.T) {
	o := tree(t, "o")
	other := tree(t, "other")
	other.Info = other.Info.Clone()
	other.Info.Path, other.Info.CA = o.Path(), storepath.ContentAddress{}
	bad := spoil(newOrigin(t, "bad", o), cut)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{bad.trusted(), newOrigin(t, "b", other).trusted()}}, lazy.CacheOptions{})
	if got, err := s.read(t.Context(), o.Path(), "bin/hello"); err == nil {
		t.Errorf("%q", got)
	}
}

// A source may heed no context, as a file on a server that is gone.
func TestStalledTransfer(t *testing.T) {
	o := tree(t, "o")
	end := make(chan struct{})
	defer close(end)
	hang := func(b io.ReadCloser) io.ReadCloser { return body{stuck(end), b} }
	s := newSetup(t, lazy.Options{
		Origins:  []lazy.Origin{spoil(newOrigin(t, "hangs", o), hang).trusted(), newOrigin(t, "good", o).trusted()},
		Patience: 2 * time.Second, // which the good one has, too
	}, lazy.CacheOptions{})
	s.wants(o.Path(), "bin/hello", "hello from o")
}

// stuck gives nothing until it is closed.
type stuck <-chan struct{}

func (s stuck) Read([]byte) (int, error) {
	<-s
	return 0, io.ErrClosedPipe
}

// One reader is interrupted, the other one goes on; when nobody waits any more, the transfer ends.
func TestInterruptedReaders(t *testing.T) {
	o := tree(t, "o")
	begun := make(chan context.Context, 2)
	from := newOrigin(t, "hangs", o)
	from.Before = func(ctx context.Context, op, name string) error {
		if strings.HasPrefix(name, "nar/") {
			begun <- ctx
			<-ctx.Done()
		}
		return ctx.Err()
	}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	var cancels []context.CancelFunc
	errs := make(chan error, 2)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cancels = append(cancels, cancel)
		go func() {
			_, err := s.read(ctx, o.Path(), "bin/hello")
			errs <- err
		}()
	}
	first := <-begun
	cancels[0]()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	select {
	case err := <-errs:
		t.Errorf("the other one does not wait: %v", err)
	default:
	}
	cancels[1]()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-first.Done()
	select {
	case second := <-begun: // that reader came only after the first one had gone
		<-second.Done()
	default:
	}
}

func TestLyingListing(t *testing.T) {
	o := tree(t, "o")
	from := newOrigin(t, "a", o)
	// The same size, and another name.
	var text bytes.Buffer
	l, err := nar.List(o.Reader())
	if err != nil {
		t.Fatal(err)
	}
	l.Lookup("bin").Entries[0].Name = "jello"
	b, err := l.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	text.Write(b)
	if err := from.Put(t.Context(), o.Path().HashPart()+".ls", &text, objstore.PutOptions{Size: objstore.Unknown}); err != nil {
		t.Fatal(err)
	}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	ob, node, err := s.find(t.Context(), o.Path(), "bin/jello")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ob.ReadAt(t.Context(), node, make([]byte, 100), 0); !errors.Is(err, fusefs.ErrStale) || n > 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
	s.wants(o.Path(), "bin/hello", "hello from o")
	again, _, err := s.find(t.Context(), o.Path(), "")
	if err != nil || again.Number() == ob.Number() {
		t.Errorf("the true object has the number of the other one (%v)", err)
	}
	if _, err := s.objects.Object(t.Context(), ob.Number()); !errors.Is(err, fusefs.ErrStale) {
		t.Errorf("the number still means something: %v", err)
	}
	if n := s.store.Counts().Lied; n != 1 {
		t.Errorf("counted %d times", n)
	}
}

// A listing of another size is seen through at once.
func TestListingOfAnotherObject(t *testing.T) {
	o, other := tree(t, "o"), tree(t, "other")
	from := newOrigin(t, "a", o, other)
	r, _, err := from.Get(t.Context(), other.Path().HashPart()+".ls", objstore.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := from.Put(t.Context(), o.Path().HashPart()+".ls", r, objstore.PutOptions{Size: objstore.Unknown}); err != nil {
		t.Fatal(err)
	}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	s.wants(o.Path(), "bin/hello", "hello from o")
}

// Whoever serves a mount next means the same by the numbers.
func TestNumbersOutliveTheirProcess(t *testing.T) {
	objects := []storepath.Path{}
	from := newOrigin(t, "a")
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	numbers := map[storepath.Path]uint64{}
	for _, name := range []string{"a", "b", "c"} {
		o := tree(t, name)
		if err := from.store.Add(t.Context(), o.Info, o.Reader(), addUnsigned); err != nil {
			t.Fatal(err)
		}
		ob, _, err := s.find(t.Context(), o.Path(), "")
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o.Path())
		numbers[o.Path()] = ob.Number()
	}
	if _, err := s.store.Objects(s.dir); !errors.Is(err, lazy.ErrServed) {
		t.Errorf("two at once: %v", err)
	}
	s.settled()
	for _, p := range objects {
		ob, err := s.objects.Object(t.Context(), numbers[p])
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		node, _ := ob.Tree().Find(0, "bin")
		node, _ = ob.Tree().Find(node, "hello")
		if n, err := ob.ReadAt(t.Context(), node, b, 0); err != nil || string(b[:n]) != "hello from "+p.Name() {
			t.Errorf("%q, %v", b[:n], err)
		}
	}
	var known []string
	for k := range s.objects.Known(0) {
		known = append(known, k.Name)
	}
	if len(known) != len(objects) {
		t.Errorf("%q are known", known)
	}
}
