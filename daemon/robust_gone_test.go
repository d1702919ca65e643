package daemon_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// Users and their test suites delete stores and make them anew, with a daemon
// running on them.

// stockRig is a stock client with strata's daemon, both in the client's world.
func stockRig(t *testing.T) (*testenv.NixEnv, *testenv.Process) {
	t.Helper()
	nix := testenv.Nix(t, newest)
	nix.WriteFile(t, "one", "one\n")
	nix.WriteFile(t, "two", "two\n")
	socket := filepath.Join(nix.Dir, "socket")
	p := testenv.Start(t, nix.StrataCommand(t.Context(), t, "daemon", "--store", "local", "--socket", socket))
	p.WaitSocket(socket)
	return nix.WithRemote(socket), p
}

func TestStoreGoesAwayUnderTheDaemon(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		return
	}
	for _, c := range []struct {
		name string
		gone []string // below /nix
	}{
		{"store directory", []string{"store"}},
		{"state directory", []string{"var"}},
		{"both", []string{"store", "var"}},
		{"database", []string{"var/nix/db"}},
		{"temporary roots", []string{"var/nix/temproots"}},
		{"links", []string{"store/.links"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			nix, _ := stockRig(t)
			one := nix.Run(t, "nix-store", "--add", "one")
			nix.Run(t, "nix-store", "--check-validity", one)
			for _, dir := range c.gone {
				if err := testenv.RemoveAll(filepath.Join(nix.Dir, "nix", dir)); err != nil {
					t.Fatal(err)
				}
			}
			two := nix.Run(t, "nix-store", "--add", "two")
			if again := nix.Run(t, "nix-store", "--add", "one"); again != one {
				t.Errorf("%s became %s", one, again)
			}
			if text := nix.Run(t, "nix-store", "-q", "--hash", two); text == "" {
				t.Error("no hash")
			}
			nix.Run(t, "nix-store", "--gc")
			if left := listing(t, nix.Store()); len(left) != 0 {
				t.Errorf("after a collection there are %q", left)
			}
		})
	}
}

// A client that stays connected meanwhile goes on with what is there.
func TestConnectedClientSeesTheStoreThatIsThereNow(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	c := r.client()
	one, two, three := file(t, "one", 100), file(t, "two", 100), file(t, "three", 100)
	r.add(c, one)
	if err := testenv.RemoveAll(filepath.Join(r.root, "nix")); err != nil {
		t.Fatal(err)
	}
	r.valid(c, false, one)
	r.add(c, two)
	r.valid(c, true, two)
	r.holds(two)

	// Another store takes its place, database and all.
	other := startRig(t, testenv.Scratch(t))
	other.add(other.client(), one, three)
	if err := other.proc.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, step := range [][2]string{{r.root + "/nix", r.root + "/old"}, {other.root + "/nix", r.root + "/nix"}} {
		if err := os.Rename(step[0], step[1]); err != nil {
			t.Fatal(err)
		}
	}
	r.valid(c, true, one, three)
	r.valid(c, false, two)
	r.add(c, two)
	r.holds(one, two, three)
	if all := stockVerify(t, r.root); len(all) != 3 {
		t.Errorf("stock Nix sees %q", all)
	}
}

// The database alone is overwritten by another one, as a restored backup does,
// in place or by a new file.
func TestDatabaseIsReplaced(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, from, to string){
		"new file": func(t *testing.T, from, to string) {
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		},
		"in place": func(t *testing.T, from, to string) {
			text, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, text, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"new directory": func(t *testing.T, from, to string) {
			if err := os.RemoveAll(filepath.Dir(to)); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Dir(from), filepath.Dir(to)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, other := startRig(t, testenv.Scratch(t)), startRig(t, testenv.Scratch(t))
			one, two, three := file(t, "one", 100), file(t, "two", 100), file(t, "three", 100)
			c := r.client()
			r.add(c, one, two, three)
			other.add(other.client(), two)
			if err := other.proc.Stop(); err != nil {
				t.Fatal(err)
			}
			if name != "new directory" { // or SQLite would add the old log to the new database
				for _, suffix := range []string{"-wal", "-shm"} {
					os.Remove(r.state() + "/db/db.sqlite" + suffix) // may not be there
				}
			}
			replace(t, other.state()+"/db/db.sqlite", r.state()+"/db/db.sqlite")
			r.valid(c, true, two)
			r.valid(c, false, one, three)
			r.add(c, three)
			if all := stockVerify(t, r.root); len(all) != 2 {
				t.Errorf("stock Nix sees %q", all)
			}
		})
	}
}

// A daemon on a read-only store, or a layered one, answers from the lower that is
// there now.
func TestReadOnlyStoreIsReplaced(t *testing.T) {
	one, two := file(t, "one", 100), file(t, "two", 100)
	root := testenv.Scratch(t)
	writer := startRig(t, root)
	writer.add(writer.client(), one)
	reader := startRig(t, root, "--store", "local?read-only=true&root="+root)
	c := reader.client()
	reader.valid(c, true, one)
	reader.valid(c, false, two)

	// It grows behind the reader's back.
	writer.add(writer.client(), two)
	reader.valid(c, true, one, two)

	// Another one takes its place.
	other := startRig(t, testenv.Scratch(t))
	other.add(other.client(), two)
	if err := other.proc.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(root+"/nix", root+"/old"); err != nil {
		t.Fatal(err)
	}
	_, err := c.ValidPaths(t.Context(), nil)
	if err != nil {
		t.Errorf("asking nothing of a store that is gone: %v", err)
	}
	if _, err := c.PathInfos(t.Context(), pathsOf(one)); err == nil {
		t.Error("a store that is gone answered")
	} else {
		says(t, err, root+"/nix/var/nix/db")
	}
	if err := os.Rename(other.root+"/nix", root+"/nix"); err != nil {
		t.Fatal(err)
	}
	reader.valid(c, false, one)
	reader.valid(c, true, two)
	err = c.Add(t.Context(), one.Info, one.Reader(), unsigned)
	says(t, err, "read-only")
}
