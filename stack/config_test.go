package stack

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestResolveDefaults(t *testing.T) {
	c, err := Config{Upper: Upper{Dir: "dev"}, Lowers: []Lower{{Path: "base"}, {Path: "/mnt/base.erofs"}, {Path: "/"}}}.Resolve("/work")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ what, got, want string }{
		{"name", c.Name, "dev"},
		{"store dir", string(c.StoreDir), "/nix/store"},
		{"mount", c.Mount, "/nix/store"},
		{"socket", c.Socket, "/work/dev/state/daemon-socket/socket"},
		{"socket of clients", c.ClientSocket(), "/nix/var/nix/daemon-socket/socket"},
		{"client", c.ClientURI(), "daemon"},
		{"layer", c.Upper.Layer, "/work/dev/layer"},
		{"work", c.Upper.Work, "/work/dev/work"},
		{"log", c.Upper.Log, "/work/dev/log"},
		{"first lower", c.Lowers[0].Name + " " + c.Lowers[0].Path, "base /work/base"},
		{"second lower", c.Lowers[1].Name, "base-2"},
		{"third lower", c.Lowers[2].Name, "lower"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, tt.got, tt.want)
		}
	}
	if c.ShowState != Yes {
		t.Error("the state is not shown")
	}
}

func TestResolveElsewhere(t *testing.T) {
	base := Config{Upper: Upper{Dir: "/u"}, Lowers: []Lower{{Path: "/l"}}}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		mount  string
		shown  Choice
		client string
	}{
		{"root", func(c *Config) { c.Root = "/r" }, "/r/nix/store", Yes, "unix:///r/nix/var/nix/daemon-socket/socket?root=/r"},
		{"mount", func(c *Config) { c.Mount = "/m" }, "/m", No, "unix:///u/state/daemon-socket/socket?real=/m"},
		{"store dir", func(c *Config) { c.StoreDir = "/s" }, "/s", No, "unix:///u/state/daemon-socket/socket?store=/s"},
		{"socket", func(c *Config) { c.Socket = "/x" }, "/nix/store", Yes, "unix:///x"},
		{"not shown", func(c *Config) { c.ShowState = No }, "/nix/store", No, "unix:///u/state/daemon-socket/socket"},
		{"state at its place", func(c *Config) { c.Upper.State = "/nix/var/nix" }, "/nix/store", No, "daemon"},
	} {
		c := base
		tt.change(&c)
		c, err := c.Resolve("/")
		if err != nil || c.Mount != tt.mount || c.ShowState != tt.shown || c.ClientURI() != tt.client {
			t.Errorf("%s: %q, %v, %q, %v", tt.name, c.Mount, c.ShowState, c.ClientURI(), err)
		}
	}
}

func TestNamesFromFiles(t *testing.T) {
	for file, want := range map[string]string{
		"dev": "dev", "dev.2": "dev.2", "my dev": "my-dev", ".dev": "dev", "-": "stack", "ü": "stack",
		"a\nb": "a-b", strings.Repeat("x", 100): strings.Repeat("x", maxName), "...": "stack", "x.": "x.",
	} {
		c, err := Config{Upper: Upper{Dir: "/u/" + file}, Lowers: []Lower{{Path: "/l/my base.erofs"}, {Path: "/"}, {Path: "/l/base"}}}.Resolve("/")
		if err != nil || c.Name != want || c.Lowers[0].Name != "my-base" || c.Lowers[1].Name != "lower" || c.Lowers[2].Name != "base" {
			t.Errorf("%q: %q, %+v, %v", file, c.Name, c.Lowers, err)
		}
	}
}

func TestResolveTellsAllMistakes(t *testing.T) {
	_, err := Config{
		Name: "a/b", Upper: Upper{Dir: "/u"}, WaitForLowers: -1, Mount: "x\x00y",
		Lowers: []Lower{{}, {Name: "a", Path: "/a"}, {Name: "a", Path: "/b"}, {Name: "..", Path: "/c"}, {Path: "/d", Store: ref(t, "daemon")}, {Store: ref(t, "daemon"), Real: "/x"}},
	}.Resolve("/")
	if err == nil {
		t.Fatal("no mistake was found")
	}
	for _, want := range []string{
		"name: 'a/b' cannot name a stack", "wait-for-lowers: ", "mount: a path cannot have a zero byte",
		"lower 1: needs either", "lower 3: the name 'a' is taken", "lower 4: '..' cannot be its name", "lower 5: needs either", "lower 6: 'real', 'state' and 'mount' go with a path",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
	var ce *ConfigError
	if _, err := (Config{}).Resolve("/"); !errors.As(err, &ce) || !strings.Contains(err.Error(), "upper.dir: is missing") || !strings.Contains(err.Error(), "lowers: are missing") {
		t.Errorf("%v", err)
	}
}

func TestParseLower(t *testing.T) {
	for text, want := range map[string]Lower{
		"/mnt/base":                   {Path: "/mnt/base"},
		"./b.erofs?mount=/m&name=x":   {Path: "./b.erofs", Mount: "/m", Name: "x"},
		"/a%3Fb%25":                   {Path: "/a?b%"},
		"/a+b":                        {Path: "/a+b"},
		"local?root=/x&name=n":        {Name: "n", Store: ref(t, "local?root=/x")},
		"daemon":                      {Store: ref(t, "daemon")},
		"unix:///s?root=/r":           {Store: ref(t, "unix:///s?root=/r")},
		"../x?real=objects&state=/db": {Path: "../x", Real: "objects", State: "/db"},
	} {
		got, err := ParseLower(text)
		if err != nil || got.Name != want.Name || got.Path != want.Path || got.Real != want.Real || got.State != want.State ||
			got.Mount != want.Mount || got.Store.String() != want.Store.String() {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "base", "/a?x=1", "/a?root=/b", "/a?name", "/a%zz"} {
		if l, err := ParseLower(bad); err == nil && l.Store.Scheme != "auto" {
			t.Errorf("%q gives %+v", bad, l)
		}
	}
}

func FuzzParseRun(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"a","dir":"/a","store-dir":"/nix/store"}`))
	f.Add([]byte(`{"version":1,"name":"a","dir":"/a","store-dir":"/nix/store","mounts":[{"role":"store","record":{"version":1,"target":"/x","mount-id":3,"boot-id":"b","device":"0:1"}}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRun("run.json", data)
		if err != nil {
			return
		}
		if !validName(r.Name) {
			t.Errorf("a stack named %q", r.Name)
		}
		for _, m := range r.Mounts {
			if m.Record.Target == "" || m.Record.Boot == "" {
				t.Errorf("a mount that cannot be recognised: %+v", m)
			}
		}
	})
}

func TestBrokenRecord(t *testing.T) {
	dir := t.TempDir()
	path := runPath(dir)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FindUpper(dir); err == nil || errors.Is(err, ErrNotUp) || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("a record of this boot that is broken: %v", err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := FindUpper(dir); !errors.Is(err, ErrNotUp) {
		t.Errorf("one from before: %v", err)
	}
}
