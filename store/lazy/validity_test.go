package lazy_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

func TestWhoIsBelieved(t *testing.T) {
	ours, theirs := key(t, "ours-1"), key(t, "theirs-1")
	plain := tree(t, "plain")
	plain.Info = plain.Info.Clone()
	plain.Info.CA = storepath.ContentAddress{}
	addressed := tree(t, "addressed")
	for _, c := range []struct {
		name    string
		object  storetest.Object
		trusted bool
		lax     bool
		valid   bool
	}{
		{"signed", sign(t, plain, ours), false, false, true},
		{"signed by another key", sign(t, plain, theirs), false, false, false},
		{"not signed", plain, false, false, false},
		{"from a trusted origin", plain, true, false, true},
		{"where signatures do not matter", plain, false, true, true},
		{"proved by its hash", addressed, false, false, addressed.Info.CA.Method == storepath.Recursive},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := newOrigin(t, "a", c.object)
			s := newSetup(t, lazy.Options{
				Origins: []lazy.Origin{{Store: from.store, Trusted: c.trusted}}, Keys: keys(t, ours), NoSignatures: c.lax,
			}, lazy.CacheOptions{})
			valid, err := s.store.ValidPaths(t.Context(), []storepath.Path{c.object.Path()})
			if err != nil || len(valid) == 1 != c.valid {
				t.Errorf("valid: %v, %v", valid, err)
			}
			got, err := s.read(t.Context(), c.object.Path(), "bin/hello")
			if (err == nil) != c.valid || c.valid && !strings.HasPrefix(got, "hello") {
				t.Errorf("%q, %v", got, err)
			}
			if n := from.nars(); n > 0 != c.valid {
				t.Errorf("%d NARs were fetched", n)
			}
		})
	}
}

// down is an origin that cannot be asked.
func down(o *origin) *origin {
	o.Before = func(context.Context, string, string) error { return errors.New("the network is down") }
	return o
}

func TestAnOriginIsDown(t *testing.T) {
	a, b := tree(t, "a"), tree(t, "b")
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{down(newOrigin(t, "down")).trusted(), newOrigin(t, "up", a).trusted()}}, lazy.CacheOptions{})
	// What another one has is valid; of the rest nobody knows.
	infos, err := s.store.PathInfos(t.Context(), []storepath.Path{a.Path(), b.Path()})
	var partial *store.PartialError
	if !errors.As(err, &partial) || len(partial.Errs) != 1 || partial.Errs[b.Path()] == nil || infos[0] == nil || infos[1] != nil {
		t.Errorf("%v, %v", infos, err)
	}
	s.wants(a.Path(), "bin/hello", "hello from a")
	if n := s.store.Counts().Unanswered; n == 0 {
		t.Error("nobody counted")
	}
}

func TestWhatIsHereStaysValid(t *testing.T) {
	k := key(t, "k-1")
	signed, unsigned, never := sign(t, tree(t, "signed"), k), tree(t, "unsigned"), tree(t, "never")
	unsigned.Info = unsigned.Info.Clone()
	signed.Info.CA, unsigned.Info.CA = storepath.ContentAddress{}, storepath.ContentAddress{}
	from := newOrigin(t, "a", signed, unsigned, never)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}, Keys: keys(t, k)}, lazy.CacheOptions{})
	for _, o := range []storetest.Object{signed, unsigned} {
		s.wants(o.Path(), "bin/hello", "hello from "+o.Path().Name())
	}
	s.settled()
	paths := []storepath.Path{signed.Path(), unsigned.Path(), never.Path()}
	for _, c := range []struct {
		name    string
		options lazy.Options
		want    int
		fails   bool
	}{
		{"offline", lazy.Options{Offline: true, Keys: keys(t, k), Origins: []lazy.Origin{from.trusted()}}, 2, false},
		{"offline, by signature only", lazy.Options{Offline: true, Keys: keys(t, k)}, 1, false},
		{"offline, nobody is believed", lazy.Options{Offline: true}, 0, false},
		{"down", lazy.Options{Keys: keys(t, k), Origins: []lazy.Origin{down(newOrigin(t, "a")).trusted()}}, 2, true},
		{"gone from there", lazy.Options{Keys: keys(t, k), Origins: []lazy.Origin{newOrigin(t, "a").trusted()}}, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.options.Cache = s.cache
			st, err := lazy.Open(c.options)
			if err != nil {
				t.Fatal(err)
			}
			infos, err := st.PathInfos(t.Context(), paths)
			n := 0
			for _, info := range infos {
				if info != nil {
					n++
				}
			}
			if n != c.want || (err != nil) != c.fails {
				t.Errorf("%d are valid, %v", n, err)
			}
		})
	}
}

func TestScopes(t *testing.T) {
	base := tree(t, "base")
	app := tree(t, "app", base.Path())
	other := tree(t, "other")
	from := newOrigin(t, "a", base, app, other)
	manifest, err := lazy.ParseManifest("m", dir, []byte("# what is needed\n\n"+dir.Print(other.Path())+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		scope *lazy.Scope
		want  []storetest.Object
	}{
		"closure":  {lazy.ClosureScope(app.Path()), []storetest.Object{base, app}},
		"manifest": {manifest, []storetest.Object{other}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}, Scope: c.scope}, lazy.CacheOptions{})
			valid, err := s.store.ValidPaths(t.Context(), []storepath.Path{base.Path(), app.Path(), other.Path()})
			if err != nil || len(valid) != len(c.want) {
				t.Errorf("%v, %v", valid, err)
			}
			n := 0
			for p, err := range s.store.AllPaths(t.Context()) {
				if n++; err != nil {
					t.Errorf("%v, %v", p, err)
				}
			}
			if n != len(c.want) {
				t.Errorf("%d are listed", n)
			}
			for _, o := range []storetest.Object{base, app, other} {
				_, err := s.read(t.Context(), o.Path(), "bin/hello")
				if in := storepath.NewSet(valid...).Has(o.Path()); (err == nil) != in {
					t.Errorf("%s: %v", o.Path(), err)
				}
			}
		})
	}
	if _, err := lazy.ParseManifest("m", dir, []byte("/nix/store/nothing\n")); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("%v", err)
	}
}

func TestPriorities(t *testing.T) {
	o := tree(t, "o")
	first, second := 1, 2
	a, b := newOrigin(t, "a", o), newOrigin(t, "b", o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{
		{Store: a.store, Trusted: true, Priority: &second}, {Store: b.store, Trusted: true, Priority: &first},
	}}, lazy.CacheOptions{})
	s.wants(o.Path(), "bin/hello", "hello from o")
	if x, y := a.nars(), b.nars(); x != 0 || y != 1 {
		t.Errorf("%d and %d NARs were fetched", x, y)
	}
}
