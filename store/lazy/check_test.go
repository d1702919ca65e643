package lazy_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/store/lazy"
)

// flaws checks a cache, and mends what is found if it is to.
func (s *setup) flaws(mend bool) (kinds []lazy.FlawKind) {
	s.t.Helper()
	var all []*lazy.Flaw
	if err := s.cache.Check(s.t.Context(), true, func(f *lazy.Flaw) { all = append(all, f) }); err != nil {
		s.t.Error(err)
	}
	for _, f := range all {
		kinds = append(kinds, f.Kind)
		if mend {
			if err := f.Mend(s.t.Context()); err != nil {
				s.t.Errorf("%+v: %v", f, err)
			}
		}
	}
	slices.Sort(kinds)
	return kinds
}

// Each way to be out of order is found, and gone after the repair; and everything can be read
// in the end.
func TestCheck(t *testing.T) {
	in := func(s *setup, names ...string) string {
		return filepath.Join(append([]string{s.cache.Dir()}, names...)...)
	}
	write := func(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
	for name, c := range map[string]struct {
		spoil func(s *setup, base string) error
		want  []lazy.FlawKind
	}{
		"nothing":   {func(*setup, string) error { return nil }, nil},
		"contents":  {func(s *setup, b string) error { change(s.t, in(s, "objects", b, "bin/hello")); return nil }, []lazy.FlawKind{lazy.FlawFile, lazy.FlawContents}},
		"no info":   {func(s *setup, b string) error { return os.Remove(in(s, "info", b)) }, []lazy.FlawKind{lazy.FlawContents}},
		"bad info":  {func(s *setup, b string) error { return write(in(s, "info", b), "?") }, []lazy.FlawKind{lazy.FlawContents}},
		"no tree":   {func(s *setup, b string) error { return os.Remove(in(s, "trees", b)) }, []lazy.FlawKind{lazy.FlawRecord}},
		"bad tree":  {func(s *setup, b string) error { return write(in(s, "trees", b), "?") }, []lazy.FlawKind{lazy.FlawRecord}},
		"mode":      {func(s *setup, b string) error { return os.Chmod(in(s, "objects", b, "share/doc"), 0o644) }, []lazy.FlawKind{lazy.FlawMode}},
		"directory": {func(s *setup, b string) error { return os.Chmod(in(s, "objects", b), 0o755) }, []lazy.FlawKind{lazy.FlawMode}},
		"foreign":   {func(s *setup, _ string) error { return os.MkdirAll(in(s, "objects", "letters", "private"), 0o755) }, []lazy.FlawKind{lazy.FlawStray}},
		"orphans": {func(s *setup, _ string) error {
			other := tree(s.t, "other").Path().Base()
			return errors.Join(write(in(s, "info", other), "?"), write(in(s, "trees", other), "?"))
		}, []lazy.FlawKind{lazy.FlawStray, lazy.FlawStray}},
		"listing": {func(s *setup, _ string) error { return write(in(s, "listings", tree(s.t, "other").Path().Base()), "?") }, []lazy.FlawKind{lazy.FlawRecord}},
		"index":   {func(s *setup, _ string) error { return write(in(s, "partial", tree(s.t, "other").Path().Base()), "?") }, []lazy.FlawKind{lazy.FlawRecord}},
		"profile": {func(s *setup, b string) error { return write(in(s, "profiles", b), "?") }, []lazy.FlawKind{lazy.FlawRecord}},
		"pin":     {func(s *setup, b string) error { return write(in(s, "pins", "mine"), b+"\n?\n") }, []lazy.FlawKind{lazy.FlawRecord}},
		"stage": {func(s *setup, b string) error {
			return errors.Join(os.MkdirAll(in(s, "tmp", "x", b), 0o755), write(in(s, "tmp", "x", ".lock"), ""))
		}, []lazy.FlawKind{lazy.FlawStray}},
		"user": {func(s *setup, _ string) error {
			return errors.Join(write(in(s, "users", "x"), "{}"), write(in(s, "users", "y.socket"), ""), write(in(s, "users", "z.new"), ""))
		}, []lazy.FlawKind{lazy.FlawStray, lazy.FlawStray, lazy.FlawStray}},
	} {
		t.Run(name, func(t *testing.T) {
			o := tree(t, "o")
			from := newOrigin(t, "a", o)
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.trusted()}, NoListings: true}, lazy.CacheOptions{})
			s.wants(o.Path(), "bin/hello", "hello from o")
			s.settled()
			var before unix.Stat_t
			if err := unix.Lstat(in(s, "objects", o.Path().Base()), &before); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(s, o.Path().Base()); err != nil {
				t.Fatal(err)
			}
			slices.Sort(c.want)
			for _, mend := range []bool{false, true} { // looking changes nothing
				if got := s.flaws(mend); !slices.Equal(got, c.want) {
					t.Errorf("found %q, want %q", got, c.want)
				}
			}
			if got := s.flaws(false); got != nil {
				t.Errorf("after the repair there are %q", got)
			}
			s.settled()
			s.wants(o.Path(), "bin/hello", "hello from o")
			s.settled()
			here(t, s.cache)
		})
	}
}
