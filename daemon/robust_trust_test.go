package daemon_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// Users that every Debian system has, with their group of the same number.
const (
	games  = 60    // only a group
	backup = 34    // user and group
	nobody = 65534 // user and group nogroup
	person = 4321  // neither
)

// userSide is a world whose daemon trusts root, backup and the group games, and in
// which a cache has objects that nobody has signed.
type userSide struct {
	side
	path string // in the cache, with an input-addressed path
	text string // in the cache, content-addressed
	log  func() string
}

func newUserSide(t *testing.T, who string, config ...string) *userSide {
	t.Helper()
	testenv.PrivilegedRoot(t)
	nix := testenv.Nix(t, newest)
	nix.Configure(t, append([]string{"trusted-users = root backup @games", "require-sigs = true"}, config...)...)
	nix.WriteFile(t, "text", "some text\n")
	nix.WriteFile(t, "tree/data", "data\n")
	nix.Run(t, "nix-store", "--init")
	u := &userSide{side: side{who: who}}
	cache := "file://" + nix.Dir + "/cache?compression=none"
	other := nix.With("NIX_REMOTE", nix.Dir+"/other")
	u.text = other.Run(t, "nix", "store", "add", "text")
	tree := other.Run(t, "nix", "store", "add", "tree")
	// The content address is not part of a registration: loaded again, it is a path
	// like one that was built.
	registration := nix.WriteFile(t, "registration", other.Run(t, "nix-store", "--dump-db", tree)+"\n")
	u.path = tree
	other.Run(t, "nix", "copy", "--to", cache, u.text)
	third := nix.With("NIX_REMOTE", nix.Dir+"/third")
	third.Run(t, "sh", "-c", "mkdir -p third/nix && cp -a other/nix/store third/nix/ && nix-store --load-db < "+registration)
	third.Run(t, "nix", "copy", "--to", cache, tree)
	third.Run(t, "sh", "-c", "nix-store --export "+tree+" > export")

	socket := filepath.Join(nix.Dir, "socket")
	daemon := nix.StrataCommand(context.Background(), t, "daemon", "--store", "local", "--socket", socket)
	if who == "stock" {
		daemon = nix.With("NIX_DAEMON_SOCKET_PATH", socket).Command(context.Background(), "nix-daemon")
	}
	p := testenv.Start(t, daemon)
	p.WaitSocket(socket)
	u.nix, u.log = nix.WithRemote(socket), p.Output
	return u
}

// as runs a shell command as a user, and gives what it prints and whether it
// succeeds.
func (u *userSide) as(t *testing.T, uid int, sh string) (out string, ok bool) {
	t.Helper()
	nix := u.nix
	if uid != 0 {
		nix = nix.WithUser(t, uid)
	}
	// A store path in the environment of a process would be a root.
	text, err := nix.With("DIR", u.nix.Dir).With("P", filepath.Base(u.path)).With("TEXT", filepath.Base(u.text)).
		Command(t.Context(), "bash", "-c", "exec 2>&1; p=/nix/store/$P text=/nix/store/$TEXT; "+sh).Output()
	out = strings.ReplaceAll(string(text), u.nix.Dir, "DIR")
	return versions.ReplaceAllString(out, "VERSION"), err == nil
}

// What a user may do and gets to hear is what a stock daemon lets him.
func TestUsersAreTrustedAsByAStockDaemon(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		return
	}
	stock, ours := newUserSide(t, "stock"), newUserSide(t, "strata")
	const (
		copying = "nix copy --from file://$DIR/cache "
		trusted = "a trusted user"
		all     = "everybody"
	)
	for _, st := range []struct {
		name, sh string
		who      string // may do it; nobody unless it says so
		says     string // to the others
	}{
		{"ping", `nix store info --json`, all, ""},
		{"add", `nix-store --add $DIR/text`, all, ""},
		{"content-addressed copy", copying + `$text && nix path-info $text`, all, ""},
		{"unsigned copy", copying + `$p`, "", "lacks a signature by a trusted key"},
		{"unsigned copy by order", copying + `--no-check-sigs $p`, trusted, "lacks a signature by a trusted key"},
		{"unsigned copy by key", copying + `--option trusted-public-keys test:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= $p`, "", "lacks a signature"},
		{"import", `nix-store --import < $DIR/export`, trusted, "lacks a signature by a trusted key"},
		{"verify", `nix-store --verify --check-contents`, all, ""},
		{"repair", `nix-store --verify --check-contents --repair`, trusted, "you are not privileged to repair paths"},
		{"harmless setting", `nix store info --option timeout 7 >/dev/null`, all, ""},
		{"restricted setting", `nix-store --option sandbox false --option fsync-metadata false --check-validity $text || true`, all, ""},
		{"roots", `nix-store --gc --print-roots | sed 's/^.* -> /-> /' | sort -u`, all, ""},
	} {
		for uid, isTrusted := range map[int]bool{games: true, person: false} {
			want, wantOK := stock.as(t, uid, st.sh)
			got, ok := ours.as(t, uid, st.sh)
			if wantOK != (st.who == all || st.who == trusted && isTrusted) {
				t.Errorf("%s as %d: stock Nix itself: success %v, %s", st.name, uid, wantOK, want)
			}
			if ok != wantOK || got != want {
				t.Errorf("%s as %d: success %v\n--- strata\n%s\n--- stock, success %v\n%s", st.name, uid, ok, got, wantOK, want)
			}
			if !ok && !strings.Contains(got, st.says) {
				t.Errorf("%s as %d: does not say %q: %s", st.name, uid, st.says, got)
			}
			if st.who != trusted || !ok {
				continue // nothing came that is not to be there for the next
			}
			for _, u := range []*userSide{stock, ours} {
				if out, ok := u.as(t, 0, "nix-store --gc"); !ok {
					t.Error(out)
				}
			}
		}
	}
	// A trusted client's require-sigs comes too late for a stock daemon, and not for
	// ours; that of others is nothing to either.
	for _, u := range []*userSide{stock, ours} {
		const ignored = "ignoring the client-specified setting 'require-sigs', because it is a restricted setting and you are not a trusted user"
		if out, ok := u.as(t, person, copying+"--option require-sigs false $p"); ok || !strings.Contains(out, ignored) || !strings.Contains(out, "lacks a signature") {
			t.Errorf("%s: success %v, %s", u.who, ok, out)
		}
	}
}

// Who may not connect hears nothing, and the operator hears who it was.
func TestUsersWhoMayNotConnect(t *testing.T) {
	for _, who := range []string{"stock", "strata"} {
		u := newUserSide(t, who, "allowed-users = root @games backup")
		for uid, want := range map[int]bool{0: true, games: true, backup: true, nobody: false, person: false} {
			out, ok := u.as(t, uid, "nix store info --json")
			if ok != want || ok && !strings.Contains(out, `"trusted":1`) && !strings.Contains(out, `"trusted":true`) {
				t.Errorf("%s: user %d: success %v: %s", who, uid, ok, out)
			}
		}
		const refused = "is not allowed to connect to the Nix daemon"
		eventually(t, "the log says whom it refused", func() bool {
			return strings.Contains(u.log(), "'nobody' "+refused) && strings.Contains(u.log(), "'4321' "+refused)
		})
	}
}

// What no stock client asks for, but a hostile one might.
func TestUntrustedClientThatAsksDirectly(t *testing.T) {
	r := newRig(t, testenv.Scratch(t))
	r.args = append(r.args, "--force-untrusted")
	r.start()
	plain := file(t, "plain", 100).Plain(t, nixDir, false)
	ca := file(t, "addressed", 100)
	before := snapshot(t, r.root)
	c := r.greet()

	// dontCheckSigs is not listened to, with and without repair.
	for _, repair := range []bool{false, true} {
		c.Uint64(opAddToStoreNar)
		c.info(plain.Info)
		c.Bool(repair)
		c.Bool(true)
		c.Bytes(plain.NAR)
		c.Uint64(0)
		c.flush()
		if msg := c.hear(); !strings.Contains(msg, "lacks a signature by a trusted key") {
			t.Errorf("unsigned upload: %q", msg)
		}
	}
	// Nor does it help to say that it was built here, or to lie about the address.
	info := plain.Info.Clone()
	info.Ultimate = true
	info.CA = ca.Info.CA
	c.Uint64(opAddToStoreNar)
	c.info(info)
	c.Bool(false)
	c.Bool(true)
	c.Bytes(plain.NAR)
	c.Uint64(0)
	c.flush()
	if msg := c.hear(); !strings.Contains(msg, "lacks a signature by a trusted key") {
		t.Errorf("upload with somebody else's address: %q", msg)
	}
	// Repairing takes bytes from elsewhere.
	c.Uint64(9)
	c.Strings([]string{nixDir.Print(ca.Path())})
	c.Uint64(1)
	c.flush()
	if msg := c.hear(); !strings.Contains(msg, "because you are not in 'trusted-users'") {
		t.Errorf("repair: %q", msg)
	}
	// A root anywhere on disk.
	link := filepath.Join(r.root, "link")
	c.Uint64(47)
	c.Text(nixDir.Print(ca.Path()))
	c.Text(link)
	c.flush()
	if msg := c.hear(); !strings.Contains(msg, "you are not privileged to create perm roots") {
		t.Errorf("permanent root: %q", msg)
	}
	if after := snapshot(t, r.root); after != before {
		t.Errorf("something changed: %s", after)
	}
	if names := listing(t, r.root); len(names) != 1 {
		t.Errorf("there are %q", names)
	}
	if c.asks(plain) {
		t.Error("valid")
	}

	// Contents that are not those of the address are found out.
	wrong := ca.Path()
	lie := plain.Info.Clone()
	lie.Path, lie.CA = wrong, ca.Info.CA
	c.Uint64(opAddToStoreNar)
	c.info(lie)
	c.Bool(false)
	c.Bool(true)
	c.Bytes(plain.NAR)
	c.Uint64(0)
	c.flush()
	if msg := c.hear(); !strings.Contains(msg, "mismatch") || !strings.Contains(msg, nixDir.Print(wrong)) {
		t.Errorf("contents of something else: %q", msg)
	}
	r.holds()
}
