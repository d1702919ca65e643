package stack

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/strata-nix/strata/store"
)

func ref(t *testing.T, text string) store.Reference {
	t.Helper()
	r, err := store.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParseShort(t *testing.T) {
	c, err := Parse("x.toml", []byte(`
lowers = ["/mnt/base", "./team.erofs?name=team&state=db", "unix:///run/x.sock?root=/mnt/x&name=x"]
upper.dir = "up"
`), "/etc/strata")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Lowers: []Lower{
			{Path: "/mnt/base"},
			{Name: "team", Path: "/etc/strata/team.erofs", State: "db"},
			{Name: "x", Store: ref(t, "unix:///run/x.sock?root=/mnt/x")},
		},
		Upper:    Upper{Dir: "/etc/strata/up"},
		Settings: map[string]string{},
	}
	if d := cmp.Diff(want, c, cmpopts.IgnoreUnexported(Lower{})); d != "" {
		t.Error(d)
	}
}

func TestParseEverything(t *testing.T) {
	c, err := Parse("x.toml", []byte(`
name = "dev"
store-dir = "/nix/store"
root = "/srv/root"
mount = "/srv/merged"
socket = "run/socket"
show-state = false
cover = true
lazy-unmount = true
wait-for-lowers = "1m30s"

[[lower]]
name = "base"
path = "base.erofs"
real = "store"
state = "var"
mount = "/mnt/base"

[[lower]]
store = "local?root=/mnt/other"

[upper]
dir = "/var/lib/strata/dev"
layer = "/fast/layer"
work = "/fast/work"
state = "/var/nix"
log = "/var/log/nix"

[settings]
trusted-users = ["root", "@wheel"]
require-sigs = false
max-jobs = 4
extra-trusted-public-keys = "key:AAAA"
`), "/d")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Name: "dev", StoreDir: "/nix/store", Root: "/srv/root", Mount: "/srv/merged", Socket: "/d/run/socket",
		ShowState: No, Cover: true, Lazy: true, WaitForLowers: 90 * time.Second,
		Lowers: []Lower{
			{Name: "base", Path: "/d/base.erofs", Real: "store", State: "var", Mount: "/mnt/base"},
			{Store: ref(t, "local?root=/mnt/other")},
		},
		Upper: Upper{Dir: "/var/lib/strata/dev", Layer: "/fast/layer", Work: "/fast/work", State: "/var/nix", Log: "/var/log/nix"},
		Settings: map[string]string{
			"trusted-users": "root @wheel", "require-sigs": "false", "max-jobs": "4", "extra-trusted-public-keys": "key:AAAA",
		},
	}
	if d := cmp.Diff(want, c, cmpopts.IgnoreUnexported(Lower{})); d != "" {
		t.Error(d)
	}
}

func TestParseNamesMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"lowrs = []":                              "x.toml:1:1: unknown key 'lowrs'; did you mean 'lowers'?",
		"name = 'x'\n[upper]\ndri = 'x'":          "x.toml:3:1: unknown key 'upper.dri'; did you mean 'dir'?",
		"[[lower]]\npath = 'x'\nmuont = 'y'":      "x.toml:3:1: unknown key 'lower.muont'; did you mean 'mount'?",
		"[upper]\n[other]\nx = 1":                 "unknown key 'other",
		"name = 3":                                "x.toml:1:8: ",
		"name = 'a'\nname = 'b'":                  "x.toml:2:",
		"name =":                                  "x.toml:1:",
		"lowers = ['/a']\n[[lower]]\npath = '/b'": "both 'lowers' and '[[lower]]'",
		"lowers = ['base']":                       "lowers, item 1: malformed store reference",
		"lowers = ['/base?stat=x']":               "unknown parameter 'stat'; did you mean 'state'?",
		"lowers = ['/base?root=/x']":              "names its root twice",
		"[[lower]]\nstore = 'nonsense'":           "lower 1: store: malformed store reference",
		"store-dir = 'relative'":                  "store-dir: ",
		"wait-for-lowers = 'long'":                "wait-for-lowers: 'long' is not a duration",
		"[settings]\nx = 1.5":                     "settings.x: is neither a string",
		"[settings]\nx = ['a b']":                 "settings.x: is neither a string",
		"[settings]\nx = {y = 1}":                 "settings.x: is neither a string",
		"upper = 'dir'":                           "x.toml:1:",
		strings.Repeat("a.", 20000) + "b = 1":     "x.toml:1:",
	} {
		_, err := Parse("x.toml", []byte(text), "/")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %.300v, want %q", text, err, want)
		}
		var fe *FileError
		if !errors.As(err, &fe) {
			t.Errorf("%.80q: %T", text, err)
		}
	}
}

func TestReadFileIsRelativeToItself(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "strata.toml")
	if err := os.WriteFile(path, []byte("lowers = ['./base']\nupper.dir = 'up'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ReadFile(path)
	if err != nil || c.Lowers[0].Path != filepath.Join(dir, "base") || c.Upper.Dir != filepath.Join(dir, "up") {
		t.Errorf("%+v, %v", c, err)
	}
	if err := os.Truncate(path, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v", err)
	}
}

// The examples say what they claim to say.
func TestExamples(t *testing.T) {
	all, err := filepath.Glob("../contrib/examples/*.toml")
	if err != nil || len(all) == 0 {
		t.Fatalf("%q, %v", all, err)
	}
	for _, path := range all {
		c, err := ReadFile(path)
		if err == nil {
			_, err = c.Resolve("/")
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"lowers = ['/a']\nupper.dir = '/u'\n", "[[lower]]\nstore = 'daemon?root=/x'\nname = 'n'\n[upper]\ndir = '.'\n",
		"[settings]\na = ['b']\nc = true\n", "wait-for-lowers = '-1s'", "lowers = ['./%00?name=..']",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("x.toml", []byte(text), "/base")
		if err != nil {
			return
		}
		c, err = c.Resolve("/base")
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, l := range c.Lowers {
			if !validName(l.Name) || names[l.Name] || filepath.Dir(l.place) != filepath.Join(c.Upper.Dir, "lowers") {
				t.Errorf("lower %q in %q", l.Name, l.place)
			}
			names[l.Name] = true
		}
		for _, p := range []string{c.Mount, c.Socket, c.Root, c.Upper.Dir, c.Upper.Layer} {
			if !filepath.IsAbs(p) || filepath.Clean(p) != p {
				t.Errorf("path %q", p)
			}
		}
	})
}
