package lazy_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// A disk that is full keeps new objects from being shown, and nobody from serving the mount later.
func TestNumbersOnAFullDisk(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	var objects []storetest.Object
	for i := range 120 { // more than a page of lines
		objects = append(objects, tree(t, fmt.Sprintf("o%d", i)))
	}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{newOrigin(t, "a", objects...).trusted()}}, lazy.CacheOptions{})
	if err := s.objects.Close(); err != nil {
		t.Fatal(err)
	}
	s.dir = smallDisk(t, "64k")
	s.reopen()
	show := func(o storetest.Object) error {
		_, err := s.objects.Lookup(t.Context(), o.Path().Base())
		return err
	}
	filler := filepath.Join(s.dir, "filler")
	if err := show(objects[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	failed := 0
	for _, o := range objects {
		if show(o) != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Error("all are shown")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if err := show(o); err != nil {
			t.Error(err)
		}
	}
	s.settled()
	for _, o := range objects {
		s.wants(o.Path(), "bin/hello", "hello from "+o.Path().Name())
	}
}

// What the kernel has read of an object is not taken for that of another one by the same name that has the same tree.
func TestAnotherObjectHasAnotherNumber(t *testing.T) {
	o := storetest.Tree(t, dir, "o", map[string]string{"file": "contents"})
	other := storetest.Tree(t, dir, "o", map[string]string{"file": "CONTENTS"})
	other.Info = other.Info.Clone()
	other.Info.Path, other.Info.CA = o.Path(), storepath.ContentAddress{}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{newOrigin(t, "a", o).trusted()}}, lazy.CacheOptions{})
	first, err := s.objects.Lookup(t.Context(), o.Path().Base())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.objects.Close(); err != nil {
		t.Fatal(err)
	}
	// The cache that had it is gone when the next process serves the mount.
	if s.store, err = lazy.Open(lazy.Options{Origins: []lazy.Origin{newOrigin(t, "b", other).trusted()}, Cache: s.cache}); err != nil {
		t.Fatal(err)
	}
	s.reopen()
	if _, err := s.objects.Object(t.Context(), first.Number()); !errors.Is(err, fusefs.ErrStale) {
		t.Errorf("the number of the first one: %v", err)
	}
	second, err := s.objects.Lookup(t.Context(), o.Path().Base())
	if err != nil || second.Number() == first.Number() {
		t.Errorf("%v, %v", second.Number(), err)
	}
	s.wants(o.Path(), "file", strings.ToUpper("contents"))
}
