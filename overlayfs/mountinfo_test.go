package overlayfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/mount"
)

func TestParseOptions(t *testing.T) {
	tests := []struct {
		name    string
		options string
		lowers  []string
		data    []string
		upper   []string // its spellings
		err     error
	}{
		{name: "one", options: "rw,lowerdir=/l,upperdir=/u,workdir=/w", lowers: []string{"/l"}, upper: []string{"/u"}},
		{name: "several", options: "lowerdir=/a:/b:/c", lowers: []string{"/a", "/b", "/c"}},
		{name: "one by one", options: "lowerdir+=/a:x,lowerdir+=/b\\134c,datadir+=/d", lowers: []string{"/a:x", `/b\c`}, data: []string{"/d"}},
		{name: "colon, to 6.4 and from 6.7", options: `lowerdir=/a\134:b:/c`, lowers: []string{"/a:b", "/c"}},
		{name: "colon, 6.5 and 6.6", options: `lowerdir=/a\134\072b:/c`, lowers: []string{"/a:b", "/c"}},
		{name: "backslash", options: `lowerdir=/a\134\134b`, lowers: []string{`/a\b`}},
		{name: "backslash and colon", options: `lowerdir=/a\134\134\134:b:/c`, lowers: []string{`/a\:b`, "/c"}},
		{name: "backslash, then separator", options: `lowerdir=/a\134\134:/b`, lowers: []string{`/a\`, "/b"}},
		{name: "comma, blank, newline, equals", options: `lowerdir=/a\054b\040c\012d\075e`, lowers: []string{"/a,b c\nd=e"}},
		{name: "equals as itself", options: `lowerdir=/a=b`, lowers: []string{"/a=b"}},
		{name: "octal digits in a name", options: `lowerdir=/a\134\134040`, lowers: []string{`/a\040`}},
		{name: "data only", options: "lowerdir=/a:/b::/c::/d", lowers: []string{"/a", "/b"}, data: []string{"/c", "/d"}},
		{name: "lower after data", options: "lowerdir=/a::/c:/b", err: ErrLowerAfterData},
		{name: "empty", options: "lowerdir=", err: ErrEmptyLayer},
		{name: "no value", options: "lowerdir", err: ErrEmptyLayer},
		{name: "empty one", options: "lowerdir=/a:", err: ErrEmptyLayer},
		{name: "leading colon", options: "lowerdir=:/a", err: ErrEmptyLayer},
		{name: "three colons", options: "lowerdir=/a:::/b", err: ErrEmptyLayer},
		{name: "trailing backslash", options: `lowerdir=/a\134`, err: ErrTrailingQuote},
		{name: "empty lowerdir+", options: "lowerdir+=", err: ErrEmptyLayer},
		{name: "empty upper", options: "upperdir=", err: ErrEmptyLayer},
		{name: "upper with two meanings", options: `lowerdir=/a,upperdir=/u\134\134x`, lowers: []string{"/a"}, upper: []string{`/u\\x`, `/u\x`}},
		{name: "broken octal", options: `lowerdir=/a\04`, lowers: []string{"/a04"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := MountInfo{Target: "/m", FSType: Type}
			err := m.parseOptions(tt.options)
			if tt.err != nil {
				var oe *OptionsError
				if !errors.Is(err, tt.err) || !errors.As(err, &oe) || oe.Target != "/m" {
					t.Fatalf("got %v, want %v", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(m.Lowers, tt.lowers) || !slices.Equal(m.Data, tt.data) || !slices.Equal(m.UpperSpellings(), tt.upper) {
				t.Errorf("lowers %q, data %q, upper %q", m.Lowers, m.Data, m.UpperSpellings())
			}
		})
	}
}

// show writes a value as the mount table of Linux 6.7 and later does.
func show(value string) string {
	return strings.NewReplacer(`\`, `\134`, ",", `\054`, "=", `\075`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(value)
}

// FuzzLowers: whatever names the lowers have, what we tell the kernel comes
// back from what it shows; and no shown text makes the parser panic.
func FuzzLowers(f *testing.F) {
	for _, name := range oddNames {
		f.Add(name, "/b")
	}
	f.Add("/a:::/b", `/a\134`)
	f.Fuzz(func(t *testing.T, a, b string) {
		var m MountInfo
		if err := m.parseOptions(a); err != nil {
			var oe *OptionsError
			if !errors.As(err, &oe) {
				t.Fatalf("untyped error %v", err)
			}
		}
		if a == "" || b == "" {
			return
		}
		shown := show(quoteLower(a) + ":" + quoteLower(b))
		m = MountInfo{}
		if err := m.parseOptions("rw,lowerdir=" + shown + ",xino=on"); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.Lowers, []string{a, b}) {
			t.Errorf("%q came back as %q", []string{a, b}, m.Lowers)
		}
		m = MountInfo{}
		if err := m.parseOptions("lowerdir+=" + show(a) + ",lowerdir+=" + show(b) + ",upperdir=" + show(quoteBackslash(a))); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.Lowers, []string{a, b}) || !slices.Contains(m.UpperSpellings(), a) {
			t.Errorf("%q came back as %q, upper %q", []string{a, b}, m.Lowers, m.UpperSpellings())
		}
	})
}

// The files are mount tables as kernels show them, with the layers that were
// mounted after the first line of each.
func TestTablesOfKernels(t *testing.T) {
	files, err := filepath.Glob("testdata/mountinfo/*")
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, table, _ := strings.Cut(string(data), "\n\n")
		var got []string
		for e, err := range mount.Entries(strings.NewReader(table)) {
			if err != nil {
				t.Fatal(file, err)
			}
			m, err := newMountInfo(e)
			if err != nil {
				t.Fatal(file, err)
			}
			if m.IsOverlay() {
				got = append(got, describe(m.Lowers, m.Upper)+" at "+m.Target)
			}
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%s: got\n%s\nwant\n%s", file, strings.Join(got, "\n"), want)
		}
	}
}
