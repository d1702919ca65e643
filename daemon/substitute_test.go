package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/overlayfs"
)

// The tests of this file let stock clients have paths substituted, by our daemon
// and by a stock one, from a cache that stock Nix has written.

// What our daemon substitutes, and says of it to stock clients, is what theirs does.
func TestSubstitutesAsAStockDaemon(t *testing.T) {
	testenv.Long(t)
	m := newMirror(t)
	for _, version := range testenv.NixVersions() {
		t.Run(version, func(t *testing.T) {
			const config = "secret-key-files = "
			stock, ours := m.client(t, version, "stock", config), m.client(t, version, "strata", config)
			for _, st := range []struct {
				sh    string
				fails bool
				since string
			}{
				{sh: `build good -A both --dry-run`},
				{sh: `build good -A app && nix path-info --sigs -r /nix/store/$app | sort`},
				{sh: `realise good /nix/store/$app && nix-store -q --deriver /nix/store/$app && nix-store -q --hash /nix/store/$app`},
				{sh: `realise good --option substitute false /nix/store/$lib`, fails: true},
				{sh: `realise good /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody`, fails: true},
				{sh: `realise good -k /nix/store/$base /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody; nix path-info --all`},
				{sh: `realise elsewhere /nix/store/$base`, fails: true},
				{sh: `realise "down good" /nix/store/$base`, since: "2.26"}, // older ones indent otherwise
				{sh: `realise "missing good" /nix/store/$base 2>&1 | grep -v ^warning`},
				{sh: `realise good?trusted=true --option trusted-public-keys "" /nix/store/$base`},
				{sh: `build nothing -A lib2 --option substitute false`},
				{sh: `nix build --no-link --option substituters $M/good /nix/store/$lib2 && nix path-info -rsSh /nix/store/$lib2 | sort`},
				{sh: `nix path-info --store $M/good -rsSh /nix/store/$app | sort; nix store ls --store $M/good -lR /nix/store/$base`},
				{sh: `nix copy --from $M/good /nix/store/$lib2; nix path-info --sigs --all`},
				{sh: `nix eval --option substituters $M/good --impure --raw --expr "builtins.readFile ((import $DIR/x.nix).lib2 + \"/deps\")"`, since: "2.26"},
				{sh: `nix-env -p $DIR/profile -i /nix/store/$lib2 --option substituters $M/good && ls $DIR/profile/; rm $DIR/profile*`},
				{sh: `nix copy --no-check-sigs --from $M/unsigned /nix/store/$base; nix path-info --sigs --all`},
				{sh: `nix copy --no-check-sigs --from $M/hash /nix/store/$base`, fails: true, since: "2.26"},
				{sh: `realise good /nix/store/$lib2 >/dev/null; nix store verify -r --sigs-needed 2 /nix/store/$lib2 2>&1 | grep untrusted | sort; exit ${PIPESTATUS[0]}`, fails: true},
				{sh: `realise good /nix/store/$base >/dev/null; chmod u+w /nix/store/$base/data; echo x >> /nix/store/$base/data
					nix-store --verify --check-contents --repair --option substituters $M/good && nix-store --verify-path /nix/store/$base`},
			} {
				if later(st.since, version) {
					continue
				}
				want, got := both(t, stock, ours, 0, st.sh)
				if (want.status != 0) != st.fails {
					t.Errorf("%s: stock Nix itself exits with %d: %s", st.sh, want.status, want.out)
				}
				if got.lines() != want.lines() || got.status != want.status {
					t.Errorf("%s: exit status %d, stock %d\n--- strata\n%s\n--- stock\n%s", st.sh, got.status, want.status, got.out, want.out)
				}
				stock.empty(t)
				if left := ours.empty(t); len(left) > 0 {
					t.Errorf("%s: leaves %q", st.sh, left)
				}
			}
		})
	}
}

// A cache that fails or lies is an error that says so, or another cache, or a build,
// as with a stock daemon; and nothing of it is left.
func TestCachesThatFailOrLie(t *testing.T) {
	testenv.Long(t)
	m := newMirror(t)
	stock, ours := m.client(t, newest, "stock"), m.client(t, newest, "strata")
	for way, says := range map[string]string{
		"missing":  "NAR is gone from the binary cache",
		"broken":   "HTTP error 500\n\n       response body:\n\n       sorry",
		"cut":      "unable to download 'MIRROR/cut/nar/",
		"flipped":  "compressed data is corrupt",
		"unsigned": "' from 'MIRROR/unsigned', as it's not signed by any of the keys in 'trusted-public-keys'",
		"hash":     "' from 'MIRROR/hash', as it's not signed by any of the keys in 'trusted-public-keys'",
		"size":     "' from 'MIRROR/size', as it's not signed by any of the keys in 'trusted-public-keys'",
		"name":     "it is about another store path, '/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-else'",
		"garbage":  "is corrupt: expecting ':' at line 1",
	} {
		for _, sh := range []string{
			`realise ` + way + ` /nix/store/$lib2`,
			`realise "` + way + ` good" /nix/store/$lib2`,
			`build ` + way + ` -A lib2`,
			`build ` + way + ` -A lib2 --fallback`,
		} {
			want, got := both(t, stock, ours, 0, sh)
			if way == "name" && sh == "build name -A lib2" {
				// Who gets other answers than he asked for is not told that there is nothing.
				want.status = 1
			}
			if got.status != want.status || !strings.Contains(got.out, says) {
				t.Errorf("%s: exit status %d, stock %d, does not say %q:\n--- strata\n%s\n--- stock\n%s", sh, got.status, want.status, says, got.out, want.out)
			}
			if names := ours.names(t); got.status != 0 && slices.ContainsFunc(names, func(s string) bool { return !strings.HasSuffix(s, ".drv") }) {
				t.Errorf("%s: there is %q", sh, names)
			}
			stock.empty(t)
			if left := ours.empty(t); len(left) > 0 {
				t.Errorf("%s: leaves %q", sh, left)
			}
		}
	}
}

// Who is not trusted substitutes from the trusted caches.
func TestSubstitutersOfUntrustedClients(t *testing.T) {
	testenv.PrivilegedRoot(t)
	m := newMirror(t)
	stock, ours := m.client(t, newest, "stock"), m.client(t, newest, "strata")
	for _, st := range []struct {
		sh    string
		fails bool
	}{
		{`realise good /nix/store/$base`, false},
		{`realise unsigned /nix/store/$base`, true},
		{`realise good?trusted=true /nix/store/$base`, true},
		{`nix-store -r --option extra-substituters "$M/cut $M/good" /nix/store/$base`, false},
		{`realise good --option trusted-public-keys "" /nix/store/$base`, false},
		{`realise good --option require-sigs false /nix/store/$base`, false},
		{`realise good --option substitute false /nix/store/$base`, true},
	} {
		want, got := both(t, stock, ours, person, st.sh)
		if (want.status != 0) != st.fails {
			t.Errorf("%s: stock Nix itself exits with %d: %s", st.sh, want.status, want.out)
		}
		if got != want {
			t.Errorf("%s: exit status %d, stock %d\n--- strata\n%s\n--- stock\n%s", st.sh, got.status, want.status, got.out, want.out)
		}
		stock.empty(t)
		ours.empty(t)
	}
}

// What several clients want is downloaded once, and all of them see it come.
func TestClientsShareDownloads(t *testing.T) {
	m := newMirror(t)
	c := m.client(t, newest, "strata")
	goOn := m.stops()
	defer goOn()
	var clients []*testenv.Process
	for range 3 {
		p := testenv.Start(t, c.command(t, 0, `realise good /nix/store/$app; echo status $?`))
		eventually(t, "a client sees that a path comes", func() bool {
			return strings.Contains(p.Output(), "copying path '"+m.paths["base"])
		})
		clients = append(clients, p)
	}
	goOn()
	for _, p := range clients {
		<-p.Done()
		if out := p.Output(); !strings.Contains(out, m.paths["app"]+"\nstatus 0") {
			t.Error(out)
		}
	}
	for _, nar := range m.asked("nar/") {
		if !strings.HasSuffix(nar, " 1") {
			t.Errorf("downloaded: %s", nar)
		}
	}
}

// A download ends with the last client that wants it, and with the daemon, and leaves
// nothing.
func TestDownloadsThatAreGivenUp(t *testing.T) {
	m := newMirror(t)
	c := m.client(t, newest, "strata")
	for _, who := range []string{"client", "daemon"} {
		goOn := m.stops()
		p := testenv.Start(t, c.command(t, 0, `exec nix-store --realise --option substituters $M/good /nix/store/$app`))
		eventually(t, "something of a NAR is on disk", func() bool { return m.has("nar/") && len(c.names(t)) > 0 })
		if who == "client" {
			p.Kill()
		} else {
			c.daemon.Kill()
			<-p.Done()
		}
		eventually(t, "the download ends", func() bool { return m.has("gone") })
		if who == "client" {
			eventually(t, "nothing is left", func() bool { return len(c.names(t)) == 0 })
		} else {
			c.start(t)
			left := slices.DeleteFunc(c.names(t), func(s string) bool { return strings.HasSuffix(s, ".lock") })
			if len(left) > 0 {
				t.Errorf("left by a daemon that was killed: %q", left)
			}
		}
		goOn()
		if out, status := c.do(t, 0, `realise good /nix/store/$app && nix-store --verify --check-contents`); status != 0 || strings.Contains(out, "error") {
			t.Errorf("after the %s is gone: exit status %d: %s", who, status, out)
		}
		if left := c.empty(t); len(left) > 0 {
			t.Errorf("left after the %s was gone: %q", who, left)
		}
		m.asked("")
	}
}

// What a cache has said, no daemon asks it again while that counts.
func TestAnswersOfCachesOutliveTheDaemon(t *testing.T) {
	m := newMirror(t)
	c := m.client(t, newest, "strata")
	const sh = `build good -A both --dry-run; realise good /nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody`
	first, _ := c.do(t, 0, sh)
	if got := m.asked(".narinfo"); len(got) != 8 {
		t.Errorf("asked for %q", got)
	}
	if err := c.daemon.Stop(); err != nil {
		t.Error(err)
	}
	c.start(t)
	if second, _ := c.do(t, 0, sh); second != first {
		t.Errorf("%s\nfirst\n%s", second, first)
	}
	if got := m.asked(""); len(got) > 0 {
		t.Errorf("asked again for %q", got)
	}
	// A client says what counts for it; here that is asked twice, for a plan and to
	// have it.
	c.do(t, 0, sh+` --option narinfo-cache-negative-ttl 0`)
	if got := m.asked(""); !slices.Equal(got, []string{"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q.narinfo 2"}) {
		t.Errorf("asked for %q", got)
	}
	c.do(t, 0, `nix build --option narinfo-cache-positive-ttl 0 --no-link --dry-run --option substituters $M/good /nix/store/$base`)
	if got := m.asked(""); !slices.Equal(got, []string{"j3y5gbxp946p41mbrlnz9rhy6lnav17k.narinfo 1"}) {
		t.Errorf("asked for %q", got)
	}
}

// What a lower store has is not fetched, and what is fetched may refer to it.
func TestLayersSubstituteWhatIsMissing(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	m := newMirror(t)
	c := m.client(t, newest, "strata")
	if err := c.daemon.Stop(); err != nil {
		t.Error(err)
	}
	dir := c.nix.Dir
	c.nix.With("NIX_REMOTE", "").Run(t, "nix", "copy", "--quiet", "--from", m.url+"/good", "--to", dir+"/lower", m.paths["lib"])
	o := overlayfs.Options{Lowers: []string{dir + "/lower/nix/store"}, Upper: dir + "/upper", Work: dir + "/work", Target: c.nix.Store()}
	for _, d := range []string{o.Upper, o.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount, err := overlayfs.Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.daemon.Stop(); err != nil {
			t.Error(err)
		}
		if err := mount.Unmount(context.WithoutCancel(t.Context()), overlayfs.UnmountOptions{}); err != nil {
			t.Error(err)
		}
	})
	c.uri = "local-overlay://?upper-layer=" + o.Upper + "&lower-store=" + url.QueryEscape(dir+"/lower")
	c.start(t)
	m.asked("")
	out, status := c.do(t, 0, `build good -A app --dry-run; realise good /nix/store/$app && nix-store -qR /nix/store/$app && nix-store --verify --check-contents`)
	for _, name := range []string{"base", "lib"} {
		if status != 0 || strings.Contains(out, "copying path '"+m.paths[name]+"'") || !strings.Contains(out, "these 3 paths will be fetched") {
			t.Errorf("exit status %d: %s", status, out)
		}
	}
	if got := m.asked("nar/"); len(got) != 3 {
		t.Errorf("downloaded %q", got)
	}
	rows := c.nix.With("NIX_REMOTE", "local").Run(t, "nix", "path-info", "--all")
	for name, path := range m.paths {
		if want := name != "other" && name != "both"; strings.Contains(rows, path) != want {
			t.Errorf("the database of the upper has\n%s", rows)
		}
	}
	entries, err := os.ReadDir(o.Upper)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == filepath.Base(m.paths["lib"]) }) {
		t.Errorf("the upper layer has %v, %v", entries, err)
	}
}

// progressOf runs a command with internal-json, and gives which activities it shows.
func (c *client) progressOf(t *testing.T, sh string) (acts map[string]int, progress, expect bool) {
	t.Helper()
	out, status := c.do(t, 0, sh)
	if status != 0 {
		t.Fatal(out)
	}
	acts = map[string]int{}
	copies := map[uint64]bool{}
	for line := range strings.Lines(out) {
		text, ok := strings.CutPrefix(line, "@nix ")
		if !ok {
			continue
		}
		var e struct {
			Action string
			ID     uint64
			Type   uint64
			Fields []any
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch {
		case e.Action == "start" && (e.Type == uint64(activity.Substitute) || e.Type == uint64(activity.CopyPath)):
			acts[fmt.Sprintln(e.Type, e.Fields)]++
			copies[e.ID] = true
		case e.Action == "start" && e.Type == uint64(activity.FileTransfer) && strings.Contains(fmt.Sprint(e.Fields), "/nar/"):
			acts[fmt.Sprintln(e.Type, e.Fields)]++
		case e.Action == "result" && e.Type == uint64(activity.Progress) && copies[e.ID]:
			progress = true
		case e.Action == "result" && e.Type == uint64(activity.SetExpected):
			expect = true
		}
	}
	return acts, progress, expect
}

// A program that shows the progress of a stock daemon shows ours.
func TestProgressOfSubstitution(t *testing.T) {
	m := newMirror(t)
	stock, ours := m.client(t, newest, "stock"), m.client(t, newest, "strata")
	const sh = `nix build --no-link --log-format internal-json -v --option substituters $M/good /nix/store/$app`
	want, _, _ := stock.progressOf(t, sh)
	got, progress, expect := ours.progressOf(t, sh)
	if !maps.Equal(got, want) || !progress || !expect || len(want) != 15 {
		t.Errorf("progress %v, expected %v, activities\n%v\nwant\n%v", progress, expect, got, want)
	}
}
