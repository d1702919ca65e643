package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
)

// envOf makes an environment of "NAME=value" pairs in which no file of the
// machine is found.
func envOf(t *testing.T, pairs ...string) environment {
	t.Helper()
	vars := map[string]string{"NIX_CONF_DIR": t.TempDir(), "NIX_USER_CONF_FILES": "", "HOME": "/home/me"}
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		vars[name] = value
	}
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func mustLoad(t *testing.T, env environment, options ...string) *config {
	t.Helper()
	c, err := loadConfig(env, options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPlacesFollowFromTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		env  string
		want [5]string // store, state, log, socket, data
	}{
		{"", [5]string{"/nix/store", "/nix/var/nix", "/nix/var/log/nix", "/nix/var/nix/daemon-socket/socket", "/home/me/.local/share/nix"}},
		{"NIX_STORE=/a/store", [5]string{"/a/store", "", "", "", ""}},
		{"NIX_STORE=/a/store NIX_STORE_DIR=/b/store", [5]string{"/b/store", "", "", "", ""}},
		{"NIX_STORE_DIR= NIX_STATE_DIR=", [5]string{"/nix/store", "/nix/var/nix", "", "", ""}},
		{"NIX_STATE_DIR=/s//x/", [5]string{"", "/s/x", "/nix/var/log/nix", "/s/x/daemon-socket/socket", ""}},
		{"NIX_STATE_DIR=/s NIX_DAEMON_SOCKET_PATH=/run/sock", [5]string{"", "/s", "", "/run/sock", ""}},
		{"NIX_LOG_DIR=/l", [5]string{"", "", "/l", "", ""}},
		{"XDG_DATA_HOME=/d", [5]string{"", "", "", "", "/d/nix"}},
		{"NIX_DATA_HOME=/d", [5]string{"", "", "", "", "/d"}},
		{"HOME=", [5]string{"", "", "", "", "-"}},
	} {
		cfg := mustLoad(t, envOf(t, strings.Fields(c.env)...))
		got := [5]string{string(cfg.dir), cfg.stateDir, cfg.logDir, cfg.socket, cfg.dataHome}
		for i, want := range c.want {
			if want == "-" {
				want = ""
			} else if want == "" {
				continue
			}
			if got[i] != want {
				t.Errorf("%q: %q", c.env, got)
				break
			}
		}
	}
	for _, bad := range []string{"NIX_STORE_DIR=store", "NIX_STATE_DIR=x", "NIX_LOG_DIR=x", "NIX_DAEMON_SOCKET_PATH=x"} {
		name, _, _ := strings.Cut(bad, "=")
		if _, err := loadConfig(envOf(t, bad), nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestSettingsAreObeyed(t *testing.T) {
	c := mustLoad(t, envOf(t))
	o := c.local
	if !o.RequireSigs || o.NoWAL || o.NoSync || o.FsyncStorePaths || o.KeepOutputs || o.DropDerivations || o.AllowSymlinkedStore ||
		o.CADerivations || o.GitHashing || len(o.TrustedKeys) != 1 {
		t.Errorf("defaults: %+v", o)
	}
	if !reflect.DeepEqual(c.users.Trusted, []string{"root"}) || !reflect.DeepEqual(c.users.Allowed, []string{"*"}) {
		t.Errorf("default users: %+v", c.users)
	}

	const conf = `
		require-sigs = false
		use-sqlite-wal = false
		fsync-metadata = false
		fsync-store-paths = true
		sync-before-registering = true
		build-users-group = builders
		keep-outputs = true
		keep-derivations = false
		allow-symlinked-store = true
		extra-experimental-features = ca-derivations git-hashing
		trusted-public-keys =
		extra-trusted-users = @wheel
		allowed-users = me you
		substituters = https://a
		trusted-substituters = https://b`
	c = mustLoad(t, envOf(t, "NIX_CONFIG="+conf))
	o = c.local
	if o.RequireSigs || !o.NoWAL || !o.NoSync || !o.FsyncStorePaths || !o.SyncBeforeRegistering || !o.KeepOutputs || !o.DropDerivations ||
		!o.AllowSymlinkedStore || !o.CADerivations || !o.GitHashing || len(o.TrustedKeys) != 0 || o.BuildUsersGroup != "builders" {
		t.Errorf("%+v", o)
	}
	u := c.users
	if !reflect.DeepEqual(u.Trusted, []string{"root", "@wheel"}) || !reflect.DeepEqual(u.Allowed, []string{"me", "you"}) || u.BuildUsersGroup != "builders" {
		t.Errorf("users: %+v", u)
	}
	if !reflect.DeepEqual(c.trustedSubstituters, []string{"https://a", "https://b"}) {
		t.Errorf("substituters: %q", c.trustedSubstituters)
	}
	if c := mustLoad(t, envOf(t, "NIX_IGNORE_SYMLINK_STORE=1")); !c.local.AllowSymlinkedStore {
		t.Error("NIX_IGNORE_SYMLINK_STORE is not obeyed")
	}
}

func TestSettingsOfTheCommandLineWin(t *testing.T) {
	env := envOf(t, "NIX_CONFIG=require-sigs = true\nstore = daemon", "NIX_REMOTE=local")
	if c := mustLoad(t, env); c.remote != "daemon" {
		t.Errorf("store: %q", c.remote)
	}
	c := mustLoad(t, env, "require-sigs=false", "store=local?root=/a=b")
	if c.local.RequireSigs || c.remote != "local?root=/a=b" {
		t.Errorf("%v, %q", c.local.RequireSigs, c.remote)
	}
	if c := mustLoad(t, env, "no-such-thing=1"); len(c.warnings) != 1 || !strings.Contains(c.warnings[0], "no-such-thing") {
		t.Errorf("warnings: %q", c.warnings)
	}
	for _, bad := range []string{"require-sigs=perhaps", "trusted-public-keys=nonsense"} {
		if _, err := loadConfig(env, []string{bad}); err == nil || !strings.Contains(err.Error(), bad[:8]) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestUnreadableSecretKeysAreNobodysBusiness(t *testing.T) {
	c := mustLoad(t, envOf(t, "NIX_CONFIG=secret-key-files = /nonexistent\ntrusted-public-keys ="))
	if len(c.local.TrustedKeys) != 0 {
		t.Errorf("%v", c.local.TrustedKeys)
	}
	bad := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(bad, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadConfig(envOf(t, "NIX_CONFIG=secret-key-files = "+bad), nil); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("%v", err)
	}
}

func TestAuto(t *testing.T) {
	dir := testenv.Scratch(t)
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(dir, "gone")
	none := map[string][]string{}
	for _, c := range []struct {
		name   string
		cfg    config
		params map[string][]string
		want   string
	}{
		{"writable state", config{stateDir: state, socket: socket}, none, "local"},
		{"no state, but a socket", config{stateDir: gone, socket: socket}, none, "unix://"},
		{"state of the URI", config{stateDir: state, socket: gone}, map[string][]string{"state": {gone}}, "local?state=" + gone},
		{"nothing, and places of one's own", config{stateDir: gone, socket: gone, dataHome: dir, ownPlaces: true}, none, "local"},
		{"nothing, and no home", config{stateDir: gone, socket: gone}, none, "local"},
		{"nothing, and parameters", config{stateDir: gone, socket: gone, dataHome: dir}, map[string][]string{"trusted": {"true"}}, "local?trusted=true"},
	} {
		if ref := c.cfg.resolveAuto(t.Context(), store.Reference{Scheme: "auto", Params: c.params}); ref.String() != c.want {
			t.Errorf("%s: %s, want %s", c.name, ref, c.want)
		}
	}
	want := "local"
	if os.Geteuid() != 0 {
		want = "local?root=" + filepath.Join(dir, "root")
	}
	nothing := config{stateDir: gone, socket: gone, dataHome: dir}
	if ref := nothing.resolveAuto(t.Context(), store.Reference{Scheme: "auto"}); ref.String() != want {
		t.Errorf("nothing at all: %s, want %s", ref, want)
	}
}

func TestADaemonNeverServesItself(t *testing.T) {
	dir := testenv.Scratch(t)
	own := filepath.Join(dir, "own")
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := config{stateDir: filepath.Join(dir, "gone"), socket: own}
	for _, k := range []struct{ uri, remote, socket, want string }{
		{"", "", own, "local"},
		{"auto", "", own, "local"},
		{"", "daemon", own, "local"},
		{"", "unix://" + own, own, "local"},
		{"", "auto", "", "unix://"}, // on standard input: pass on to the daemon
		{"", "", "/other", "unix://"},
		{"daemon", "", "/other", "unix://"},
		{"local?root=/x", "daemon", own, "local?root=/x"},
	} {
		c.remote = k.remote
		ref, err := c.served(context.Background(), k.uri, k.socket)
		if err != nil || ref.String() != k.want {
			t.Errorf("%+v: %s, %v", k, ref, err)
		}
	}
	c.remote = ""
	for _, uri := range []string{"daemon", "unix://" + own, "unix://" + dir + "/./own"} {
		if ref, err := c.served(context.Background(), uri, own); err == nil {
			t.Errorf("%s became %s", uri, ref)
		}
	}
}

func TestParametersOfStores(t *testing.T) {
	c := mustLoad(t, envOf(t, "NIX_STATE_DIR=/state", "NIX_LOG_DIR=/log"))
	for _, k := range []struct{ uri, root, real, state, log string }{
		{"local", "", "", "/state", "/log"},
		{"local?root=/r", "/r", "", "", ""},
		{"local:///r", "/r", "", "", ""},
		{"/r/", "/r", "", "", ""},
		{"local?root=/r&state=/s&log=/l&real=/x//y/", "/r", "/x/y", "/s", "/l"},
		{"local?state=/s", "", "", "/s", "/log"},
	} {
		ref, err := store.ParseReference(k.uri)
		if err != nil {
			t.Fatal(err)
		}
		p := newParams(ref)
		o := c.localOptions(p)
		if err := p.end(); err != nil || o.Root != k.root || o.Real != k.real || o.State != k.state || o.Log != k.log {
			t.Errorf("%s: %+v, %v", k.uri, o, err)
		}
	}
	for uri, want := range map[string]string{
		"local?rood=/x":                      "did you mean 'root'?",
		"local?Read_Only=true":               "did you mean 'read-only'?",
		"local?frobnicate=1":                 "setting 'frobnicate' of store 'local?frobnicate=1' is unknown",
		"local?root=x":                       "not an absolute path",
		"local://x":                          "not an absolute path",
		"local?root=/x&root=/y":              "given 2 times",
		"local?read-only=ja":                 "neither true nor false",
		"local?store=x":                      "cannot be a store directory",
		"unix:///s?max-connections=many":     "not a number",
		"unix:///s?upper-layer=/x":           "setting 'upper-layer'",
		"local-overlay://?uper-layer=/x":     "did you mean 'upper-layer'?",
		"local-overlay://?lower-store=ftp:x": "setting 'lower-store'",
		"locall://":                          "did you mean 'local'?",
		"ftp://host/x":                       "don't know how to open Nix store with scheme 'ftp'",
	} {
		ref, err := store.ParseReference(uri)
		if err != nil {
			t.Fatal(err)
		}
		st, err := c.open(t.Context(), ref)
		var usage *usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", uri, st, err, want)
		}
	}
}

func TestSettingsThatNobodyObeysAreNamed(t *testing.T) {
	c := mustLoad(t, envOf(t, "NIX_CONFIG=builders =\nplugin-files = /p"), "json-log-path=/x")
	want := []string{
		"setting 'json-log-path' is not obeyed: see --log-format",
		"setting 'plugin-files' is not obeyed: there are no plugins",
	}
	if !reflect.DeepEqual(c.passedOver, want) {
		t.Errorf("got %q", c.passedOver)
	}
}

func TestSettingsOfAutomaticCollections(t *testing.T) {
	a := mustLoad(t, envOf(t, "NIX_CONFIG=min-free = 1G\nmax-free = 3000\nmin-free-check-interval = 0")).local.AutoGC
	if a.MinFree != 1<<30 || a.MaxFree == nil || *a.MaxFree != 3000 || a.CheckInterval == nil || *a.CheckInterval != 0 {
		t.Errorf("%+v", a)
	}
	if a := mustLoad(t, envOf(t)).local.AutoGC; a.MinFree != 0 || a.MaxFree != nil || *a.CheckInterval != local.DefaultMinFreeCheckInterval {
		t.Errorf("by default: %+v", a)
	}
}

func TestSettingsOfTheNetwork(t *testing.T) {
	c := mustLoad(t, envOf(t, "NIX_CONFIG=narinfo-cache-negative-ttl = 7\nhttp-connections = 3\nhttp2 = false\nsecret-key-files = /a /b", "NIX_SSHOPTS=-p 'a b'"))
	n := c.network
	if n.ttl.Negative != 7*time.Second || n.ttl.Positive != 30*24*time.Hour || n.connections != 3 || !n.transfers.NoHTTP2 {
		t.Errorf("%+v, %+v", n.ttl, n.transfers)
	}
	if len(c.secretKeyFiles) != 2 || len(c.sshOptions) != 2 || c.sshOptions[1] != "a b" {
		t.Errorf("%q, %q", c.secretKeyFiles, c.sshOptions)
	}
	for _, bad := range []string{"NIX_CONFIG=narinfo-cache-negative-ttl = soon", "NIX_CONFIG=http-connections = -1", "NIX_SSHOPTS='"} {
		if _, err := loadConfig(envOf(t, bad), nil); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestShellWordsAreSplitAsByAShell(t *testing.T) {
	for in, want := range map[string][]string{
		"":                         nil,
		"  a\tb\n":                 {"a", "b"},
		`-o "A b" 'c "d"' e\ f`:    {"-o", "A b", `c "d"`, "e f"},
		`"" ''`:                    {"", ""},
		`a"b"'c'`:                  {"abc"},
		`"\"\\\x"`:                 {`"\\x`},
		`'\n'`:                     {`\n`},
		`-oProxyCommand="a 'b' c"`: {"-oProxyCommand=a 'b' c"},
	} {
		if got, err := splitShell(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{`"`, `'`, `a\`, `"a'`} {
		if got, err := splitShell(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestHostsOfSSH(t *testing.T) {
	for in, want := range map[string]sshTarget{
		"host":                {host: "host"},
		"me@host":             {user: "me", host: "host"},
		"me@corp@host:22":     {user: "me@corp", host: "host", port: 22},
		"[::1]":               {host: "::1"},
		"[fe80::1%eth0]:2222": {host: "fe80::1%eth0", port: 2222},
		"host/":               {host: "host"},
	} {
		if got, err := parseSSHAuthority(in); err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "@host", "me@", "-oProxyCommand=x", "-x@host", "host:0", "host:x", "host:70000", "a b", "host/path", "a\nb"} {
		if got, err := parseSSHAuthority(in); err == nil {
			t.Errorf("%q: %+v", in, got)
		}
	}
}

func TestURLsOfCaches(t *testing.T) {
	for in, want := range map[string]string{
		"https://cache.example.org":  "https://cache.example.org",
		"https://cache.example.org/": "https://cache.example.org/",
		"http://h:80/a%20b/c?x=y":    "http://h:80/a%20b/c",
		"https://me:p%40ss@h/a@b":    "https://me:p%40ss@h/a@b",
		"https://[::1]:443/x":        "https://[::1]:443/x",
	} {
		ref, err := store.ParseReference(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := cacheURL(ref).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
