package lazy_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
)

func TestProfileText(t *testing.T) {
	a, b := tree(t, "a").Path(), tree(t, "b").Path()
	p := &lazy.Profile{Root: a, Wants: []lazy.Want{{Path: a, File: "bin/hello"}, {Path: b, File: "odd \xff\n\" name"}, {Path: b}}}
	got, err := lazy.ParseProfile(p.Text())
	if err != nil || !reflect.DeepEqual(p, got) {
		t.Errorf("%+v, %v", got, err)
	}
	begin := "strata-profile 1\n"
	for name, text := range map[string]string{
		"nothing": "", "another version": "strata-profile 2\n" + a.Base() + "\n", "no root": begin,
		"a root with a file": begin + a.Base() + " \"x\"\n", "no path": begin + a.Base() + "\nhello\n",
		"a way out": begin + a.Base() + "\n" + b.Base() + " \"../x\"\n", "absolute": begin + a.Base() + "\n" + b.Base() + " \"/etc/passwd\"\n",
		"no quotes": begin + a.Base() + "\n" + b.Base() + " x\n", "other quotes": begin + a.Base() + "\n" + b.Base() + " `x`\n",
		"a zero": begin + a.Base() + "\n" + b.Base() + " \"x\\x00\"\n", "too many": begin + strings.Repeat(a.Base()+"\n", lazy.MaxWants+2),
		"a long line": begin + a.Base() + "\n" + b.Base() + " \"" + strings.Repeat("x/", 40<<10) + "x\"\n",
	} {
		if p, err := lazy.ParseProfile([]byte(text)); !errors.Is(err, lazy.ErrProfile) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
}

func FuzzParseProfile(f *testing.F) {
	a := tree(f, "a").Path()
	f.Add((&lazy.Profile{Root: a, Wants: []lazy.Want{{Path: a, File: "bin/hello"}, {Path: a}}}).Text())
	f.Add([]byte("strata-profile 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := lazy.ParseProfile(text)
		if err != nil {
			if !errors.Is(err, lazy.ErrProfile) {
				t.Error(err)
			}
			return
		}
		again, err := lazy.ParseProfile(p.Text())
		if err != nil || !bytes.Equal(again.Text(), p.Text()) {
			t.Errorf("%q is read as %+v, %v", p.Text(), again, err)
		}
	})
}

// start reads some files as a program does that starts, with all that is learnt and fetched ahead meanwhile.
func (s *setup) start(wants ...lazy.Want) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		s.objects.Learn(ctx)
		close(done)
	}()
	for _, w := range wants {
		if _, err := s.read(ctx, w.Path, w.File); err != nil {
			s.t.Errorf("%+v: %v", w, err)
		}
	}
	cancel()
	<-done
}

// What a start-up reads is remembered for the object that began it, and for each that nothing before refers to.
func TestProfilesAreLearnt(t *testing.T) {
	lib := tree(t, "lib")
	app := tree(t, "app", lib.Path())
	other := tree(t, "other", lib.Path())
	from := newOrigin(t, "a", lib, app, other)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	w := func(o storetest.Object, file string) lazy.Want { return lazy.Want{Path: o.Path(), File: file} }
	s.start(w(app, "bin/hello"), w(lib, "share/doc"), w(other, "share/doc"), w(lib, "bin/hello"), w(app, "bin/hello"))
	p, err := s.cache.Profile(app.Path())
	want := []lazy.Want{w(app, "bin/hello"), w(lib, "share/doc"), w(lib, "bin/hello")}
	if err != nil || p == nil || !reflect.DeepEqual(p.Wants, want) {
		t.Fatalf("%+v, %v", p, err)
	}
	if p, err := s.cache.Profile(other.Path()); err != nil || p == nil || !reflect.DeepEqual(p.Wants, []lazy.Want{w(other, "share/doc"), w(lib, "bin/hello")}) {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := s.cache.Profile(lib.Path()); err != nil || p != nil {
		t.Errorf("%+v, %v", p, err)
	}
	// Another process reads other files: it adds to what is known.
	s.settled()
	s.start(w(app, "share/doc"))
	if p, err = s.cache.Profile(app.Path()); err != nil || !reflect.DeepEqual(p.Wants, append(want, w(app, "share/doc"))) {
		t.Errorf("%+v, %v", p, err)
	}
	roots, err := s.cache.Profiles(t.Context())
	if err != nil || len(roots) != 2 {
		t.Errorf("%v, %v", roots, err)
	}
	// One that is damaged is made anew.
	if err := os.WriteFile(filepath.Join(s.cache.Dir(), "profiles", app.Path().Base()), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.cache.AddProfile(t.Context(), &lazy.Profile{Root: app.Path(), Wants: want}); err != nil {
		t.Error(err)
	}
	if p, err = s.cache.Profile(app.Path()); err != nil || !reflect.DeepEqual(p.Wants, want) {
		t.Errorf("%+v, %v", p, err)
	}
	for range 2 {
		if err := s.cache.RemoveProfile(app.Path()); err != nil {
			t.Error(err)
		}
	}
}

// A start with a profile fetches the same files ahead, by few requests, and nothing else.
func TestFetchedAheadByAProfile(t *testing.T) {
	files := map[string]string{}
	var wants []lazy.Want
	for i := range 40 {
		name := "share/" + string(rune('a'+i%26)) + strings.Repeat("x", i)
		files[name] = noise(i, 3000)
	}
	files["large"] = noise(99, 5<<20)
	app := storetest.Tree(t, dir, "app", files)
	for name := range files {
		if name != "large" {
			wants = append(wants, lazy.Want{Path: app.Path(), File: name})
		}
	}
	from := indexed(t, "a", forms["zstd"], app)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	profile := &lazy.Profile{Root: app.Path(), Wants: append(wants, lazy.Want{Path: app.Path(), File: "gone"}, lazy.Want{Path: tree(t, "unknown").Path()})}
	if err := s.objects.FetchAhead(t.Context(), profile.Wants); err != nil {
		t.Fatal(err)
	}
	bytes, parts := from.taken()
	if bytes < 40*3000 || bytes > 1<<20 || parts > 4 {
		t.Errorf("%d bytes by %d requests", bytes, parts)
	}
	if n := s.store.Counts().Ahead; n < 40 {
		t.Errorf("%d files came ahead", n)
	}
	for _, w := range wants {
		s.wants(w.Path, w.File, files[w.File])
	}
	if bytes, parts := from.taken(); parts > 0 {
		t.Errorf("%d bytes more by %d requests", bytes, parts)
	}
	// By a process that serves no mount, and as a whole.
	other := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	if err := other.store.FetchAhead(t.Context(), []lazy.Want{{Path: app.Path()}}); err != nil {
		t.Fatal(err)
	}
	if !other.cache.Has(app.Path()) {
		t.Error("it is not complete")
	}
}

// Without an index whole objects come ahead, and a start of the root is enough.
func TestAStartFetchesAhead(t *testing.T) {
	lib := tree(t, "lib")
	app := tree(t, "app", lib.Path())
	from := newOrigin(t, "a", lib, app)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}}, lazy.CacheOptions{})
	if err := s.cache.AddProfile(t.Context(), &lazy.Profile{Root: app.Path(), Wants: []lazy.Want{{Path: app.Path(), File: "bin/hello"}, {Path: lib.Path(), File: "share/doc"}}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		s.objects.Learn(ctx)
		close(done)
	}()
	s.wants(app.Path(), "bin/hello", "hello from app")
	for !s.cache.Has(lib.Path()) {
		if t.Context().Err() != nil {
			t.Fatal("it never comes")
		}
	}
	cancel()
	<-done
}
