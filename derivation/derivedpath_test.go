package derivation

import (
	"errors"
	"strings"
	"testing"

	"github.com/strata-nix/strata/storepath"
)

func TestDerivedPath(t *testing.T) {
	for _, c := range []struct{ in, out, shown string }{
		{aPath, aPath, "00000000000000000000000000000000-a"},
		{aDrv + "!out", aDrv + "!out", "00000000000000000000000000000000-a.drv^out"},
		{aDrv + "!out,dev,out", aDrv + "!dev,out", "00000000000000000000000000000000-a.drv^dev,out"},
		{aDrv + "!*", aDrv + "!*", "00000000000000000000000000000000-a.drv^*"},
		{aDrv + "!out!dev!*", aDrv + "!out!dev!*", "00000000000000000000000000000000-a.drv^out^dev^*"},
	} {
		d, err := ParseDerivedPath(storepath.DefaultDir, c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := d.Text(storepath.DefaultDir); got != c.out {
			t.Errorf("%s: %s, want %s", c.in, got, c.out)
		}
		if d.String() != c.shown {
			t.Errorf("%s: shown as %s, want %s", c.in, d, c.shown)
		}
		if d.IsOpaque() != !strings.Contains(c.in, "!") || d.WantsAll() != strings.HasSuffix(c.in, "*") {
			t.Errorf("%s: opaque %v, all %v", c.in, d.IsOpaque(), d.WantsAll())
		}
		arg, err := ParseDerivedPathArg(storepath.DefaultDir, strings.ReplaceAll(c.in, "!", "^"))
		if err != nil || !arg.Equal(d) {
			t.Errorf("%s with ^: %v, %v", c.in, arg, err)
		}
	}
}

func TestDerivedPathErrors(t *testing.T) {
	for name, in := range map[string]string{
		"empty":            "",
		"not in the store": "/tmp/x!out",
		"inside an object": aDrv + "/bin!out",
		"no output":        aDrv + "!",
		"empty output":     aDrv + "!out,,dev",
		"bad output":       aDrv + "!o/t",
		"star and others":  aDrv + "!*,out",
		"star in between":  aDrv + "!*!out",
		"empty in between": aDrv + "!!out",
		"caret":            aDrv + "^out",
		"deep":             aDrv + strings.Repeat("!out", 1000),
		"deep and empty":   aDrv + strings.Repeat("!", 10<<20),
		"many":             aDrv + "!" + strings.Repeat("o,", 1<<20) + "o",
	} {
		if d, err := ParseDerivedPath(storepath.DefaultDir, in); !errors.Is(err, ErrDerivedPath) {
			t.Errorf("%s: %v, %v; want ErrDerivedPath", name, d, err)
		} else if len(err.Error()) > 2000 {
			t.Errorf("%s: a message of %d bytes", name, len(err.Error()))
		}
	}
}

func FuzzDerivedPath(f *testing.F) {
	for _, s := range []string{aPath, aDrv + "!out,dev", aDrv + "!*", aDrv + "!out!dev"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDerivedPath(storepath.DefaultDir, s)
		if err != nil {
			return
		}
		if back, err := ParseDerivedPath(storepath.DefaultDir, d.Text(storepath.DefaultDir)); err != nil || !back.Equal(d) {
			t.Fatalf("%q: %v comes back as %v, %v", s, d, back, err)
		}
	})
}
