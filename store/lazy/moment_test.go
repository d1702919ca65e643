package lazy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// What happens in a moment that nobody can choose from outside.

// momentCache is a cache, and the path of an object that it has not.
func momentCache(t *testing.T) (*Cache, storepath.Path) {
	t.Helper()
	c, err := OpenCache(CacheOptions{Dir: filepath.Join(testenv.Scratch(t), "cache")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := storepath.ParseBase("0961c3pzv29aycqysl6m2b35kkb8yb9v-o")
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

// An object is among the others a while before it is no stage any more: until that is on disk.
func TestNarOfWhatIsBeingPublished(t *testing.T) {
	c, p := momentCache(t)
	s := &Store{o: Options{Cache: c, Dir: storepath.DefaultDir}}
	info := &store.PathInfo{Path: p}
	st, err := c.newStage(info)
	if err != nil {
		t.Fatal(err)
	}
	c.stage(st)
	defer c.unstage(st)
	var got, want bytes.Buffer
	if err := s.dump(t.Context(), info, io.Discard); !errors.Is(err, ErrUnavailable) {
		t.Errorf("of what has just gone: %v", err)
	}
	at := filepath.Join(c.Objects(), p.Base())
	if err := errors.Join(os.Mkdir(at, 0o755), os.WriteFile(filepath.Join(at, "f"), []byte("text"), 0o644), nar.Dump(t.Context(), &want, at)); err != nil {
		t.Fatal(err)
	}
	if err := s.dump(t.Context(), info, &got); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes instead of %d, %v", got.Len(), want.Len(), err)
	}
}

// What somebody else has taken away was not evicted, and is counted by nobody twice.
func TestWhatIsGoneIsNotEvicted(t *testing.T) {
	c, p := momentCache(t)
	before, err := c.tally(func(t *tally) { t.Objects, t.Bytes = 2, 1000 })
	if err != nil {
		t.Fatal(err)
	}
	out := &Evicted{}
	gone, err := c.takeAway(t.Context(), []held{{c: c, path: p, bytes: 500}}, out)
	if err != nil || len(gone) != 0 || out.InUse != 0 {
		t.Errorf("%v went, %+v, %v", gone, out, err)
	}
	if after, err := c.tally(nil); err != nil || after != before {
		t.Errorf("%+v, and before %+v, %v", after, before, err)
	}
}

// Files are counted several at a time; and of a process that is killed meanwhile the next one learns.
func TestFilesAreCountedTogether(t *testing.T) { synctest.Test(t, filesAreCountedTogether) } // no time passes but by sleeping

func filesAreCountedTogether(t *testing.T) {
	c, _ := momentCache(t)
	counted, err := c.tally(func(t *tally) { t.Counted = 1 << 33 })
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c.writes()(1000)
	}
	if now, err := c.tally(nil); err != nil || now.Bytes != 0 {
		t.Errorf("%+v, %v", now, err)
	}
	if n := c.total(); n != 10_000 {
		t.Errorf("%d are here", n)
	}
	left := func() (n int) {
		entries, err := os.ReadDir(c.at(tmpDir))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	other, err := OpenCache(c.o)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if now, err := other.tally(nil); err != nil || now != counted || left() != 1 {
		t.Errorf("somebody who is alive was taken for dead: %+v, %v, %d left", now, err, left())
	}
	if u, err := c.Usage(context.WithoutCancel(t.Context())); err != nil || u.Bytes != 10_000 || left() != 0 {
		t.Errorf("%+v, %v, %d left", u, err, left())
	}
	done := c.writes()
	c.writes()(1000)
	time.Sleep(2 * noteAfter)
	synctest.Wait()
	if now, err := c.tally(nil); err != nil || now.Bytes != 11_000 || left() != 1 { // somebody is still writing
		t.Errorf("%+v, %v, %d left", now, err, left())
	}
	done(0)
	time.Sleep(2 * noteAfter)
	synctest.Wait()
	if n := left(); n != 0 {
		t.Errorf("%d left", n)
	}
	c.writes()(noteBytes) // so much is noted at once
	if now, err := c.tally(nil); err != nil || now.Bytes != 11_000+noteBytes {
		t.Errorf("%+v, %v", now, err)
	}
	c.writes()(1000)
	c.along.timer.Stop()
	if err := c.along.lock.Close(); err != nil { // as the kernel does for who is killed
		t.Fatal(err)
	}
	c.along.lock = nil
	next, err := OpenCache(c.o)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if now, err := next.tally(nil); err != nil || now.Counted != 0 || left() != 0 {
		t.Errorf("%+v, %v, %d left", now, err, left())
	}
}
