package nixconf

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree writes files into a directory of the test, where DIR stands for it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func parsed(t *testing.T, text string) *Config {
	t.Helper()
	c := New()
	if err := c.ApplyText("nix.conf", text); err != nil {
		t.Fatal(err)
	}
	return c
}

// get unpacks what a getter gives.
func get[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func warnings(c *Config) []string {
	var out []string
	for _, w := range c.Warnings() {
		out = append(out, w.String())
	}
	return out
}

func TestSyntax(t *testing.T) {
	c := parsed(t, "# comment\n\n   \t\n"+
		"store =   local?root=/x \t # not this\n"+
		"\tbuilders = ssh://a   x86_64-linux ; ssh://b\r\n"+
		"require-sigs = false\n"+
		"system =\n"+
		"user-agent-suffix = a = b\n"+
		"cores = 4") // no newline at the end
	for name, want := range map[string]string{
		"store": "local?root=/x", "builders": "ssh://a x86_64-linux ; ssh://b", "system": "", "user-agent-suffix": "a = b", "eval-system": "default",
	} {
		if got := c.String(name, "default"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if get[bool](t)(c.Bool("require-sigs", true)) || get[int64](t)(c.Int("cores", 0)) != 4 || len(c.Warnings()) > 0 {
		t.Errorf("require-sigs or cores; %q", warnings(c))
	}
	if o := c.Origins("cores"); len(o) != 1 || o[0].String() != "nix.conf:9" || c.Origins("timeout") != nil || c.IsSet("timeout") || !c.IsSet("system") {
		t.Errorf("origins %v", o)
	}
}

func TestSyntaxErrors(t *testing.T) {
	for text, why := range map[string]string{
		"\nstore=local":           "nix.conf:2: syntax error in configuration line 'store=local'",
		"store local":             "nix.conf:1: syntax error",
		"store":                   "nix.conf:1: syntax error",
		"store # = local":         "nix.conf:1: syntax error",
		"store == local":          "nix.conf:1: syntax error",
		"include":                 "nix.conf:1: syntax error",
		"include a b":             "nix.conf:1: syntax error",
		"include = a":             "nix.conf:1: syntax error",
		"!include":                "nix.conf:1: syntax error",
		"require-sigs = maybe":    "nix.conf:1: Boolean setting 'require-sigs' has invalid value 'maybe'",
		"require-sigs =":          "nix.conf:1: Boolean setting 'require-sigs' has invalid value ''",
		"min-free = much":         "nix.conf:1: setting 'min-free' has invalid value 'much'",
		"min-free = 1P":           "nix.conf:1: setting 'min-free' has invalid value '1P'",
		"min-free = G":            "nix.conf:1: setting 'min-free' has invalid value 'G'",
		"min-free = 9999999999T":  "nix.conf:1: setting 'min-free' has invalid value",
		"build-max-jobs = many":   "nix.conf:1: configuration setting 'max-jobs' should be 'auto' or an integer",
		"max-jobs = -1":           "nix.conf:1: configuration setting 'max-jobs'",
		"include /nonexistent/x":  "nix.conf:1: file '/nonexistent/x' not found",
		strings.Repeat("x", 1000): "nix.conf:1: syntax error",
	} {
		err := New().ApplyText("nix.conf", text)
		if !errors.Is(err, ErrConfig) || !strings.HasPrefix(err.Error(), why) || len(err.Error()) > 400 {
			t.Errorf("%.40q: %v; want %q", text, err, why)
		}
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "17": 17, "-3": -3, "+3": 3, "1k": 1 << 10, "2M": 2 << 20, "3G": 3 << 30, "1t": 1 << 40, "-1K": -1 << 10} {
		c := parsed(t, "min-free = "+text)
		if got := get[int64](t)(c.Int("min-free", 5)); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
		n, err := c.Uint("min-free", 5)
		if want < 0 {
			if err == nil || !strings.Contains(err.Error(), "nix.conf:1: setting 'min-free' has invalid value '-") {
				t.Errorf("%s as unsigned: %d, %v", text, n, err)
			}
		} else if err != nil || n != uint64(want) {
			t.Errorf("%s as unsigned: %d, %v", text, n, err)
		}
	}
	c := parsed(t, "max-jobs = auto")
	if n := get[uint](t)(c.Jobs("max-jobs", 1)); n != uint(runtime.NumCPU()) {
		t.Errorf("auto: %d", n)
	}
	none := New()
	if get[int64](t)(none.Int("min-free", 5)) != 5 || get[uint64](t)(none.Uint("min-free", 5)) != 5 || get[uint](t)(none.Jobs("max-jobs", 1)) != 1 ||
		!get[bool](t)(none.Bool("require-sigs", true)) {
		t.Error("defaults")
	}
}

func TestLists(t *testing.T) {
	def := []string{"root"}
	for text, want := range map[string][]string{
		"":                          {"root"},
		"trusted-users = a  b":      {"a", "b"},
		"trusted-users =":           {},
		"extra-trusted-users = a b": {"root", "a", "b"},
		"trusted-users = a\nextra-trusted-users = b\nextra-trusted-users = c": {"a", "b", "c"},
		"extra-trusted-users = b\ntrusted-users = a":                          {"a"},
		"extra-trusted-users =":                                               {"root"},
	} {
		if got := parsed(t, text).Strings("trusted-users", def); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if !slices.Equal(def, []string{"root"}) {
		t.Errorf("the default became %q", def)
	}
	c := parsed(t, "extra-binary-cache-public-keys = a:b # by an old name\nextra-platforms = i686-linux\nextra-extra-platforms = x")
	if got := c.Strings("trusted-public-keys", nil); !slices.Equal(got, []string{"a:b"}) {
		t.Errorf("by an old name: %q", got)
	}
	if got := c.Strings("extra-platforms", nil); !slices.Equal(got, []string{"i686-linux", "x"}) {
		t.Errorf("a setting that begins with extra-: %q", got)
	}
	if got := len(c.Origins("extra-platforms")); got != 2 {
		t.Errorf("%d origins", got)
	}
	m := parsed(t, "access-tokens = a=1 b=2=3 junk\nextra-access-tokens = a=4 c=").Map("access-tokens")
	if d := cmp.Diff(map[string]string{"a": "1", "b": "2=3", "c": ""}, m); d != "" {
		t.Error(d)
	}
}

func TestAliases(t *testing.T) {
	c := parsed(t, "cores = 2\nbuild-cores = 3\nbinary-caches = https://a")
	if n := get[int64](t)(c.Int("cores", 0)); n != 3 || c.Strings("substituters", nil)[0] != "https://a" {
		t.Errorf("cores %d", n)
	}
	defer func() {
		if recover() == nil {
			t.Error("an alias was taken for a proper name")
		}
	}()
	c.String("build-cores", "")
}

func TestPaths(t *testing.T) {
	c := parsed(t, "netrc-file = /a//b/../c\nbuild-dir = rel\nflake-registry =\nexperimental-features = flakes\nflake-registry =")
	if p := get[string](t)(c.Path("netrc-file", "/d")); p != "/a/c" {
		t.Errorf("%s", p)
	}
	if p := get[string](t)(c.Path("diff-hook", "/d")); p != "/d" {
		t.Errorf("%s", p)
	}
	for name, why := range map[string]string{"build-dir": "nix.conf:2: setting 'build-dir' has invalid value 'rel'", "flake-registry": "nix.conf:5: setting 'flake-registry' is a path and paths cannot be empty"} {
		if p, err := c.Path(name, "/d"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %q, %v", name, p, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	c := parsed(t, `trusted-user = alice
colour = blue
colour = red
extra-cores = 4
use-registries = false
experimental-features = nix-comand nix-command
auto-allocate-uids = nonsense
extra-experimental-features = flakes frobnicate`)
	want := []string{
		"unknown experimental feature 'nix-comand'; did you mean 'nix-command'? (nix.conf:6)",
		"unknown experimental feature 'frobnicate' (nix.conf:8)",
		"unknown setting 'trusted-user'; did you mean 'trusted-users'? (nix.conf:1)",
		"unknown setting 'colour' (nix.conf:2)",
		"unknown setting 'extra-cores' (nix.conf:4)",
		"Ignoring setting 'auto-allocate-uids' because experimental feature 'auto-allocate-uids' is not enabled (nix.conf:7)",
	}
	got := warnings(c)
	for i := range got { // what is suggested for a name that is like nothing does not matter
		if strings.HasPrefix(got[i], "unknown setting 'extra-cores'") {
			got[i] = "unknown setting 'extra-cores' (nix.conf:4)"
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// The features of a file count for all of it.
	if v := get[bool](t)(c.Bool("use-registries", true)); v {
		t.Error("use-registries is ignored though flakes are on")
	}
	if !c.HasFeature("flakes") || !c.HasFeature("fetch-tree") || !c.HasFeature("nix-command") || c.HasFeature("cgroups") {
		t.Error("features")
	}
	if err := c.ApplyText("later", "experimental-features = cgroups"); err != nil || c.HasFeature("flakes") || !c.HasFeature("cgroups") {
		t.Error("features of a later file", err)
	}
}

func TestInclude(t *testing.T) {
	dir := tree(t, map[string]string{
		"nix.conf":       "cores = 1\ninclude sub/a.conf\n!include missing.conf\n!include DIR/sub/\n!include sub/a.conf/x\ntimeout = 7\n",
		"sub/a.conf":     "cores = 2\ninclude b.conf\ninclude ../c.conf\n",
		"sub/b.conf":     "timeout = 3\n",
		"c.conf":         "store = /c\n",
		"bad.conf":       "\ninclude sub/worse.conf",
		"sub/worse.conf": "\n\ncores = many",
		"gone.conf":      "include sub/gone2.conf",
		"sub/gone2.conf": "include nowhere.conf",
	})
	c := New()
	if err := c.ApplyFile(filepath.Join(dir, "nix.conf")); err != nil {
		t.Fatal(err)
	}
	if get[int64](t)(c.Int("cores", 0)) != 2 || get[int64](t)(c.Int("timeout", 0)) != 7 || c.String("store", "") != "/c" {
		t.Errorf("%+v", c.values)
	}
	if o := c.Origins("store"); o[0] != (Origin{File: filepath.Join(dir, "c.conf"), Line: 1}) {
		t.Errorf("origin %v", o)
	}
	for file, why := range map[string]string{
		"bad.conf":  filepath.Join(dir, "sub/worse.conf") + ":3: setting 'cores' has invalid value",
		"gone.conf": filepath.Join(dir, "sub/gone2.conf") + ":1: file '" + filepath.Join(dir, "sub/nowhere.conf") + "' not found",
	} {
		if err := New().ApplyFile(filepath.Join(dir, file)); !errors.Is(err, ErrConfig) || !strings.HasPrefix(err.Error(), why) {
			t.Errorf("%s: %v\nwant %s", file, err, why)
		}
	}
	if err := New().ApplyFile(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrConfig) {
		t.Errorf("no file: %v", err)
	}
}

func TestIncludeLoops(t *testing.T) {
	dir := tree(t, map[string]string{
		"self.conf":  "include self.conf",
		"a.conf":     "include b.conf",
		"b.conf":     "!include link.conf",
		"twice.conf": "include leaf.conf\ninclude leaf.conf\n",
		"leaf.conf":  "cores = 1",
		// Each of these includes the next one twice.
		"many.conf": strings.Repeat("include leaf.conf\n", maxIncludes+1),
	})
	if err := os.Symlink("a.conf", filepath.Join(dir, "link.conf")); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		text := "include deep" + string(rune('A'+i+1)) + "\n"
		if err := os.WriteFile(filepath.Join(dir, "deep"+string(rune('A'+i))), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for file, why := range map[string]string{
		"self.conf": "self.conf' includes itself", "a.conf": "link.conf' includes itself",
		"deepA": "too many files include each other", "many.conf": "too many files",
	} {
		if err := New().ApplyFile(filepath.Join(dir, file)); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v; want %q", file, err, why)
		}
	}
	if err := New().ApplyFile(filepath.Join(dir, "twice.conf")); err != nil {
		t.Errorf("one file twice: %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := tree(t, map[string]string{
		"etc/nix.conf":              "cores = 1\ntimeout = 1\nstore = /system\ntrusted-users = root\nmax-silent-time = 1\n",
		"xdg1/nix/nix.conf":         "cores = 2\ntimeout = 2\nextra-trusted-users = one\n",
		"xdg2/nix/nix.conf":         "cores = 3\ntimeout = 3\nextra-trusted-users = two\nmax-silent-time = 3\n",
		"home/.config/nix/nix.conf": "cores = 4\nextra-trusted-users = home\n",
		"own/nix.conf":              "cores = 5\n",
	})
	env := map[string]string{
		"NIX_CONF_DIR": filepath.Join(dir, "etc"), "HOME": filepath.Join(dir, "home"),
		"XDG_CONFIG_DIRS": ":" + filepath.Join(dir, "xdg1") + ":" + filepath.Join(dir, "xdg2"),
		"NIX_CONFIG":      "extra-trusted-users = env\ninclude " + filepath.Join(dir, "own/nix.conf"),
	}
	load := func(more ...string) *Config {
		t.Helper()
		c, err := Load(func(name string) (string, bool) {
			for i := 0; i < len(more); i += 2 {
				if more[i] == name {
					return more[i+1], true
				}
			}
			v, ok := env[name]
			return v, ok
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cores := func(c *Config) int64 { return get[int64](t)(c.Int("cores", 0)) }
	c := load()
	if cores(c) != 5 || get[int64](t)(c.Int("timeout", 0)) != 2 || get[int64](t)(c.Int("max-silent-time", 0)) != 3 || c.String("store", "") != "/system" {
		t.Errorf("%+v", c.values)
	}
	if got, want := c.Strings("trusted-users", nil), []string{"root", "two", "one", "home", "env"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	want := map[string]string{"cores": "5", "timeout": "2", "max-silent-time": "3", "trusted-users": "root two one home env"}
	if d := cmp.Diff(want, c.Overrides()); d != "" {
		t.Error("overrides", d)
	}
	for name, c := range map[string]struct {
		more []string
		want int64
	}{
		"NIX_CONFIG empty":        {[]string{"NIX_CONFIG", ""}, 4},
		"XDG_CONFIG_HOME":         {[]string{"NIX_CONFIG", "", "XDG_CONFIG_HOME", filepath.Join(dir, "xdg2")}, 3},
		"NIX_CONFIG_HOME":         {[]string{"NIX_CONFIG", "", "NIX_CONFIG_HOME", filepath.Join(dir, "own")}, 5},
		"NIX_USER_CONF_FILES":     {[]string{"NIX_CONFIG", "", "NIX_USER_CONF_FILES", filepath.Join(dir, "xdg1/nix/nix.conf") + ":" + filepath.Join(dir, "own/nix.conf")}, 2},
		"no NIX_USER_CONF_FILES":  {[]string{"NIX_CONFIG", "", "NIX_USER_CONF_FILES", ""}, 1},
		"files that do not exist": {[]string{"NIX_CONFIG", "", "NIX_USER_CONF_FILES", "/nonexistent:" + dir, "NIX_CONF_DIR", "/nonexistent"}, 0},
	} {
		if got := cores(load(c.more...)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	if _, err := Load(func(name string) (string, bool) { return "cores = x", name == "NIX_CONFIG" }); !errors.Is(err, ErrConfig) || !strings.HasPrefix(err.Error(), "NIX_CONFIG:1: ") {
		t.Errorf("bad NIX_CONFIG: %v", err)
	}
}

// The home directory of another user is not where our configuration is.
func TestForeignHome(t *testing.T) {
	if home, _ := homeDir(func(string) (string, bool) { return "/proc/1", true }); os.Geteuid() != 0 && home == "/proc/1" {
		t.Error("took a directory of root's")
	}
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if home, _ := homeDir(func(string) (string, bool) { return dir, true }); home == dir {
			t.Error("root took the directory of user 12345")
		}
		return
	}
	if home, ok := homeDir(func(string) (string, bool) { return dir, true }); home != dir || !ok {
		t.Errorf("own directory: %q", home)
	}
}

func TestOverridesAppend(t *testing.T) {
	c := New()
	c.ResetOverridden()
	if err := c.Set("extra-trusted-users", "a b", Origin{File: "command line"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Set("cores", "x", Origin{File: "command line"}); err == nil || !strings.HasPrefix(err.Error(), "command line: setting 'cores'") {
		t.Errorf("%v", err)
	}
	if d := cmp.Diff(map[string]string{"extra-trusted-users": "a b"}, c.Overrides()); d != "" {
		t.Error(d)
	}
}

func TestTables(t *testing.T) {
	if !slices.IsSortedFunc(Settings, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) }) || !slices.IsSorted(Features) {
		t.Error("not sorted")
	}
	count := 0
	for _, s := range Settings {
		count += 1 + len(s.Aliases)
		if s.Feature != "" && !slices.Contains(Features, s.Feature) {
			t.Errorf("%s needs an unknown feature", s.Name)
		}
	}
	if len(byName) != count {
		t.Errorf("%d names are not unique", count)
	}
}

func FuzzNixConf(f *testing.F) {
	f.Add("cores = 1\nextra-trusted-users = a b # c\nexperimental-features = flakes\nmin-free = 1G")
	f.Add("!include /dev/null\nmax-jobs = auto\nrequire-sigs = maybe")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") {
			return // would read files of this machine
		}
		c := New()
		if err := c.ApplyText("fuzz", text); err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		// What was set can be set again, with the same effect.
		again := New()
		if f, ok := c.Overrides()[featuresSetting]; ok {
			_ = again.Set(featuresSetting, f, Origin{})
		}
		for name, v := range c.Overrides() {
			if err := again.Set(name, v, Origin{}); err != nil {
				t.Fatalf("%s = %q: %v", name, v, err)
			}
		}
		for _, s := range Settings {
			if a, b := c.Strings(s.Name, nil), again.Strings(s.Name, nil); !slices.Equal(a, b) && s.Feature == "" {
				t.Fatalf("%s: %q, again %q", s.Name, a, b)
			}
		}
	})
}
