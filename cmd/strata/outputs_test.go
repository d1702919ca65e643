package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// What is known of an output that nobody could know beforehand goes with it.
func TestOutputsOfContentAddressedDerivations(t *testing.T) {
	const dir = storepath.DefaultDir
	src, dst := memstore.New(dir), memstore.New(dir)
	out := storetest.File(t, dir, "out", "made\n")
	if err := src.Add(t.Context(), out.Info, out.Reader(), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	drv := src.AddText(t, "floating.drv",
		`Derive([("dev","","r:sha256",""),("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",[],[("dev",""),("name","floating"),("out",""),("outputs","dev out")])`)
	read, err := readDerivation(t.Context(), src, drv)
	if err != nil {
		t.Fatal(err)
	}
	m, err := derivation.NewHasher(dir, nil).Modulo(t.Context(), read)
	if err != nil {
		t.Fatal(err)
	}
	want := &store.Realisation{ID: store.DrvOutput{DrvHash: m.Hashes["out"], Output: "out"}, OutPath: out.Path()}
	if err := src.RegisterRealisations(t.Context(), []*store.Realisation{want}); err != nil {
		t.Fatal(err)
	}

	s := selection{}
	if s.outputs, _, err = parseOutputs(dir, []string{dir.Print(drv) + "^out"}); err != nil {
		t.Fatal(err)
	}
	infos, err := s.infos(t.Context(), src)
	if err != nil || len(infos) != 1 || infos[0].Path != out.Path() || len(s.realised) != 1 {
		t.Fatalf("%v, %v, %v", infos, s.realised, err)
	}
	tr := &transfer{src: src, dst: dst}
	err = errors.Join(tr.plan(t.Context(), infos), tr.run(t.Context(), func(storepath.Path) {}), tr.realise(t.Context(), s.realised))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := dst.Realisations(t.Context(), []store.DrvOutput{want.ID}); err != nil || got[0] == nil || got[0].OutPath != out.Path() {
		t.Errorf("%v, %v", got, err)
	}

	for _, arg := range []string{"^dev", "^*", "^none"} {
		s := selection{}
		if s.outputs, _, err = parseOutputs(dir, []string{dir.Print(drv) + arg}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.infos(t.Context(), src); exitCodeOf(err) != exitAbsent {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestArgumentsThatNameNoOutput(t *testing.T) {
	const dir = storepath.DefaultDir
	base := "/nix/store/00000000000000000000000000000000-x"
	for _, arg := range []string{base + "^out", base + ".drv^", base + ".drv^a/b", base + ".drv^out^out", "/x^out", "^"} {
		if got, _, err := parseOutputs(dir, []string{arg}); exitCodeOf(err) != exitUsage {
			t.Errorf("%s: %v, %v", arg, got, err)
		}
	}
	got, rest, err := parseOutputs(dir, []string{"a", base + ".drv^out,dev", "b"})
	if err != nil || !slices.Equal(rest, []string{"a", "b"}) || fmt.Sprint(got) != "[00000000000000000000000000000000-x.drv^dev,out]" {
		t.Errorf("%v, %q, %v", got, rest, err)
	}
}
