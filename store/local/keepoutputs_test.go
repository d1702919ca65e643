package local_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// realised is a content-addressed derivation and what it made, in a store.
type realised struct{ drv, made, other storepath.Path }

func addRealised(t *testing.T, s *local.Store) (r realised) {
	t.Helper()
	text := `Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",["-c","true"],[("name","d"),("out","` + derivation.OutputPlaceholder("out") + `")])`
	info, err := s.AddDump(t.Context(), store.Dump{
		Name: "d.drv", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256}, Contents: strings.NewReader(text),
	}, store.AddOptions{})
	must(t, err)
	made, other := storetest.File(t, s.Dir(), "d", "made"), storetest.File(t, s.Dir(), "other", "other")
	add(t, s, made, other)
	r = realised{drv: info.Path, made: made.Path(), other: other.Path()}
	drv, err := derivation.Parse(s.Dir(), "d", []byte(text))
	must(t, err)
	m, err := derivation.NewHasher(s.Dir(), nil).Modulo(t.Context(), drv)
	must(t, err)
	must(t, s.RegisterRealisations(t.Context(), []*store.Realisation{{ID: store.DrvOutput{DrvHash: m.Hashes["out"], Output: "out"}, OutPath: r.made}}))
	return r
}

// With keep-outputs a live derivation keeps what it made also when only a realisation tells what
// that was, as with stock Nix, but whatever order things are found in.
func TestKeepOutputsOfContentAddressedDerivations(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	nix.Configure(t, "keep-outputs = true", "extra-experimental-features = ca-derivations")
	o := local.Options{Root: nix.Dir, CADerivations: true, KeepOutputs: true}
	s := open(t, o)
	r := addRealised(t, s)
	_, err := s.AddPermRoot(t.Context(), r.drv, nix.Dir+"/root")
	must(t, err)
	dead := func(s *local.Store) []string {
		t.Helper()
		res, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.ReturnDead, MaxFreed: store.NoLimit})
		must(t, err)
		return slices.Sorted(slices.Values(res.Paths))
	}
	want := []string{s.Dir().Print(r.other)}
	if got := dead(s); !slices.Equal(got, want) {
		t.Errorf("dead are %q, want %q", got, want)
	}
	// Stock Nix knows of the output as soon as it has met the derivation. Which of them comes first in the
	// store directory, the file system decides.
	stock := strings.Fields(nix.Run(t, "nix-store", "--gc", "--print-dead"))
	if stock = slices.DeleteFunc(stock, func(p string) bool { return p == s.Dir().Print(r.made) }); !slices.Equal(stock, want) {
		t.Errorf("to stock Nix dead are %q, want %q", stock, want)
	}
	why, err := s.WhyAlive(t.Context(), []storepath.Path{r.made}, true)
	must(t, err)
	if len(why[0]) != 1 || len(why[0][0].Chain) != 2 || why[0][0].Chain[0].Path != r.drv || why[0][0].Chain[1].Via != store.ByKeepOutputs {
		t.Errorf("why it is alive: %+v", why[0])
	}

	o.KeepOutputs = false
	if got := dead(open(t, o)); len(got) != 2 {
		t.Errorf("without the setting dead are %q", got)
	}

	// What cannot be read any more made anything, as far as anybody can tell.
	o.KeepOutputs = true
	file := nix.Store() + "/" + r.drv.Base()
	must(t, os.Chmod(file, 0o644))
	must(t, os.WriteFile(file, []byte("nothing"), 0o644))
	if got := dead(open(t, o)); !slices.Equal(got, want) {
		t.Errorf("with a damaged derivation dead are %q", got)
	}
	must(t, os.Remove(nix.Dir+"/root"))
	res, err := open(t, o).CollectGarbage(context.Background(), deleteAll)
	if err != nil || len(res.Paths) != 3 {
		t.Errorf("a damaged derivation that is dead: %v, %v", res, err)
	}
}
