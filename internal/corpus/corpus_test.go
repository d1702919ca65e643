package corpus_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/corpus"
	"github.com/strata-nix/strata/internal/testenv"
)

// TestStockNixVerifiesSmallCorpus has every version of stock Nix load the
// registration, hash every object and look for what is not as it should be.
func TestStockNixVerifiesSmallCorpus(t *testing.T) {
	_, registration := testenv.Corpus(t)
	reg, err := os.ReadFile(registration)
	if err != nil {
		t.Fatal(err)
	}
	pins, err := corpus.Small()
	if err != nil {
		t.Fatal(err)
	}
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		nix = nix.WithCorpus(t)
		if out, err := nix.Command(t.Context(), "nix-store", "--verify", "--check-contents").CombinedOutput(); err != nil {
			t.Errorf("verify: %v\n%s", err, out)
		}
		all := strings.Fields(nix.Run(t, "nix", "path-info", "--all"))
		if len(all) != len(pins) {
			t.Errorf("%d paths are valid, want %d", len(all), len(pins))
		}
		if dump := nix.Run(t, "nix-store", "--dump-db"); len(dump)+1 != len(reg) {
			t.Errorf("the database holds a registration of %d bytes, ours has %d", len(dump)+1, len(reg))
		}
	})
}

func TestTreesOfStockNixsLiking(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	for _, empty := range []bool{false, true} {
		out := filepath.Join(testenv.Scratch(t), "out")
		if err := corpus.Trees(t.Context(), corpus.TreesOptions{N: 40, Pool: 5, Fan: 3, Empty: empty}, out); err != nil {
			t.Fatal(err)
		}
		reg, err := os.ReadFile(filepath.Join(out, corpus.RegistrationFile))
		if err != nil {
			t.Fatal(err)
		}
		env := nix.WithBind(out, "/out").With("NIX_REMOTE", "/out")
		load := env.Command(t.Context(), "nix-store", "--load-db")
		load.Stdin = bytes.NewReader(reg)
		if msg, err := load.CombinedOutput(); err != nil {
			t.Fatalf("load-db: %v\n%s", err, msg)
		}
		env.Run(t, "nix-store", "--verify", "--check-contents")
		first := strings.SplitN(string(reg), "\n", 2)[0]
		if got := strings.Fields(env.Run(t, "nix-store", "--query", "--referrers-closure", first)); len(got) != 40 {
			t.Errorf("empty %t: %d objects lean on the first, want all 40", empty, len(got))
		}
	}
}

func TestOutputMustBeEmpty(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "precious"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := corpus.Trees(t.Context(), corpus.TreesOptions{N: 1}, dir)
	if err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("got %v", err)
	}
}

func TestLockRoundTrip(t *testing.T) {
	pins, err := corpus.Small()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := corpus.WriteLock(&text, pins); err != nil {
		t.Fatal(err)
	}
	again, err := corpus.ReadLock(&text)
	if err != nil || len(again) != len(pins) || again[0] != pins[0] {
		t.Errorf("%d pins became %d, %v", len(pins), len(again), err)
	}
	if _, err := corpus.ReadLock(strings.NewReader("# x\nbookworm bash\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a short line: %v", err)
	}
}

func TestSmallCorpusIsSmall(t *testing.T) {
	pins, err := corpus.Small()
	if err != nil {
		t.Fatal(err)
	}
	var size uint64
	for _, p := range pins {
		size += p.Size
	}
	if len(pins) < 20 || size > 50e6 {
		t.Errorf("%d packages, %d bytes to download", len(pins), size)
	}
}
