package local_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
)

// linesOf gives the lines of texts of several.
func linesOf(texts ...string) []string {
	return strings.Split(strings.TrimSpace(strings.Join(texts, "\n")), "\n")
}

// Of the same damage Verify says the same as a stock Nix, and leaves the same database.
func TestVerifySaysWhatNixSays(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	chain := storetest.Chain(t, "/nix/store", 3)
	alone := storetest.File(t, "/nix/store", "alone", "z")
	bad := storetest.Tree(t, "/nix/store", "bad", map[string]string{"bin/x": "x"}, chain[2].Path())
	make := func(root string) {
		s, err := local.Open(t.Context(), local.Options{Root: root})
		must(t, err)
		add(t, s, append(slices.Clone(chain), alone, bad)...)
		must(t, s.Close())
		place := func(o storetest.Object) string { return filepath.Join(root, "nix/store", o.Path().Base()) }
		must(t, os.Remove(place(chain[0])), os.Remove(place(alone)))
		write(t, filepath.Join(place(bad), "bin/x"), "bad")
		write(t, place(chain[1]), "bad too")
		write(t, filepath.Join(root, "nix/store/.links", strings.Repeat("0", 52)), "a link")
	}
	ours := testenv.Scratch(t)
	make(ours)
	make(nix.Dir)

	cmd := nix.Command(t.Context(), "nix-store", "--verify", "--check-contents")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err == nil || !asExit(err, &exit) {
		t.Fatalf("a stock Nix finds nothing: %v\n%s", err, out)
	}

	s := open(t, local.Options{Root: ours})
	var said testenv.Lines
	damaged, err := s.Verify(activity.With(t.Context(), &said), store.VerifyOptions{CheckContents: true})
	if err != nil || !damaged {
		t.Errorf("%v, %v", damaged, err)
	}
	we := linesOf(said.UpTo(activity.Info)...)
	for i := range we {
		we[i] = strings.ReplaceAll(we[i], ours+"/nix/", "/nix/")
	}
	// What a stock Nix says of its own settings is its own affair.
	their := slices.DeleteFunc(linesOf(string(out)), func(l string) bool {
		return strings.HasPrefix(l, "warning: ") && !strings.Contains(l, "path") || strings.Contains(l, "store paths") || l == ""
	})
	their = slices.DeleteFunc(their, func(l string) bool {
		return strings.HasPrefix(l, "error: ") || strings.HasPrefix(l, "warning: not all")
	})
	if len(their) < 8 {
		t.Fatalf("a stock Nix says %q", their)
	}
	slices.Sort(we)
	if n := len(we); len(slices.Compact(slices.Clone(we))) != n {
		t.Errorf("something is said twice: %q", we)
	}
	for _, l := range their {
		if !slices.Contains(we, strings.ReplaceAll(l, `"`, "'")) && !slices.Contains(we, l) {
			t.Errorf("a stock Nix says %q, and we do not; we say\n%s", l, strings.Join(we, "\n"))
		}
	}
	if v, err := s.ValidPaths(t.Context(), pathsOf([]storetest.Object{alone, chain[0]})); err != nil || len(v) != 1 {
		t.Errorf("valid afterwards: %v, %v", v, err)
	}
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError) //nolint:errorlint // as exec gives it
	*exit = e
	return ok
}

// After a repair a stock Nix finds nothing either.
func TestStockNixAgreesWithRepairs(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	w := newChecked(t, nix.Dir)
	for _, d := range damages {
		switch d.name {
		case "rows of everything", "size", "mode", "link", "foreign file", "temporary roots", "gc.lock is a directory", "no index",
			"deriver that cannot be read", "reference of nothing", "signature":
			d.do(t, w)
		}
	}
	if r := w.run(t, check.Options{Contents: true, Repair: true}); left(r) != 0 {
		t.Fatalf("%q", sentences(r))
	}
	nix.Run(t, "nix-store", "--verify", "--check-contents")
	nix.Run(t, "nix-store", "--gc", "--print-dead")
}
