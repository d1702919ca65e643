package output_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

func secretKey(t *testing.T) trust.SecretKey {
	t.Helper()
	k, err := trust.GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestInputAddressedOutputs(t *testing.T) {
	for _, at := range []where{atFinal, elsewhere} {
		w := newWorld(t)
		dep := w.add(t, storetest.File(t, w.Dir(), "dep", "dep"))
		unused := w.add(t, storetest.File(t, w.Dir(), "unused", "unused"))
		job := w.job(t, basic(inputAddressed, "out", "dev"), at, dep, unused)
		w.build(t, job,
			file{"out", "bin/x", "#! {dep}/bin/sh\n{out}/lib {dev}"},
			file{"out", "lib", "->{out}/bin"},
			file{"dev", "", "nothing but {dep}"})
		key := secretKey(t)
		keys := trust.Keys{}.WithSecret(key)
		r := w.register(t, job, output.Options{Keys: []trust.SecretKey{key}})

		out, dev := job.Outputs["out"].Path, job.Outputs["dev"].Path
		for name, want := range map[string][]storepath.Path{"out": {dep.Path, out, dev}, "dev": {dep.Path}} {
			info := r.Infos[name]
			stored, err := store.PathInfoOf(t.Context(), w, job.Outputs[name].Path)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(stored.References, storepath.SortUnique(want)) || stored.Deriver != job.DrvPath || !stored.Ultimate || !stored.CA.IsZero() {
				t.Errorf("%+v", stored)
			}
			if info.NarHash != stored.NarHash || keys.CountValid(stored, w.Dir()) != 1 {
				t.Errorf("%+v, %+v", info, stored)
			}
			if got := r.Realisations[name]; got.OutPath != stored.Path || got.ID != (store.DrvOutput{DrvHash: job.Hashes[name], Output: name}) {
				t.Errorf("%+v", got)
			}
		}
		if got := w.read(t, out, "bin/x"); got != "#! "+w.Dir().Print(dep.Path)+"/bin/sh\n"+w.Dir().Print(out)+"/lib "+w.Dir().Print(dev) {
			t.Errorf("%q", got)
		}
		if target, err := os.Readlink(filepath.Join(w.RealDir(), out.Base(), "lib")); err != nil || target != w.Dir().Print(out)+"/bin" {
			t.Errorf("%q, %v", target, err)
		}
	}
}

// Those outputs that are valid are left alone, and the others refer to them.
func TestValidOutputsStay(t *testing.T) {
	w := newWorld(t)
	d := basic(inputAddressed, "out", "dev")
	job := w.job(t, d, atFinal)
	w.build(t, job, file{"out", "", "{dev}"}, file{"dev", "", "first"})
	w.register(t, job, output.Options{})
	dev := job.Outputs["dev"].Path
	if _, err := w.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteSpecific, Paths: []storepath.Path{job.Outputs["out"].Path}, MaxFreed: store.NoLimit}); err != nil {
		t.Fatal(err)
	}

	job = w.job(t, d, elsewhere)
	valid := job.Outputs["dev"]
	valid.Valid = true
	job.Outputs["dev"] = valid
	w.build(t, job, file{"out", "", "again {dev}"}, file{"dev", "", "second"})
	r := w.register(t, job, output.Options{})
	if got := w.read(t, job.Outputs["out"].Path, ""); got != "again "+w.Dir().Print(dev) {
		t.Errorf("%q", got)
	}
	if got := w.read(t, dev, ""); got != "first" {
		t.Errorf("%q", got)
	}
	if len(r.Infos) != 1 || r.Realisations["dev"].OutPath != dev || !slices.Equal(r.Infos["out"].References, []storepath.Path{dev}) {
		t.Errorf("%+v", r)
	}
}

// Whoever builds the same another way round, under other scratch paths, gets the
// same objects.
func TestFloatingOutputs(t *testing.T) {
	for _, method := range []storepath.Method{storepath.Recursive, storepath.Flat, storepath.Text, storepath.Git} {
		var first *output.Result
		for _, builder := range []string{"/bin/sh", "/bin/bash"} {
			w := newWorld(t)
			dep := w.add(t, storetest.File(t, w.Dir(), "dep", "dep"))
			d := basic(floating(method), "a", "b", "c")
			d.Builder = builder
			job := w.job(t, d, atFinal, dep)
			switch method {
			case storepath.Recursive:
				w.build(t, job, file{"a", "x", "{b} {a} {b}{c}"}, file{"b", "", "{c}"}, file{"c", "y/z", "{c}{dep}"})
			case storepath.Text:
				w.build(t, job, file{"a", "", "{b}"}, file{"b", "", "{c} {dep}"}, file{"c", "", "c"})
			default:
				w.build(t, job, file{"a", "", "a"}, file{"b", "", "b"}, file{"c", "", "c"})
			}
			r := w.register(t, job, output.Options{Realisations: true, Keys: []trust.SecretKey{secretKey(t)}})
			for name, info := range r.Infos {
				if !info.IsContentAddressed(w.Dir()) || info.CA.Method != method {
					t.Errorf("%s %s: %+v", method, name, info)
				}
				if first != nil && (first.Infos[name].Path != info.Path || first.Infos[name].NarHash != info.NarHash || !slices.Equal(first.Infos[name].References, info.References)) {
					t.Errorf("%s %s: %+v, by another builder %+v", method, name, first.Infos[name], info)
				}
				id := store.DrvOutput{DrvHash: job.Hashes[name], Output: name}
				known, err := w.Realisations(t.Context(), []store.DrvOutput{id})
				if err != nil || known[0] == nil || known[0].OutPath != info.Path || len(known[0].Signatures) != 1 {
					t.Errorf("%s %s: %+v, %v", method, name, known, err)
				}
			}
			if first == nil {
				first = r
			}
		}
	}
}

// What is there already is not made again, and knows afterwards that it was built
// here.
func TestFloatingOutputThatIsValid(t *testing.T) {
	w := newWorld(t)
	o := storetest.File(t, w.Dir(), "x", "the same")
	o.Info.Signatures = []store.Signature{"somebody:c2lnbmF0dXJl"}
	w.add(t, o)
	job := w.job(t, basic(floating(storepath.Recursive), "out"), atFinal)
	w.build(t, job, file{"out", "", "the same"})
	r := w.register(t, job, output.Options{})
	info, err := store.PathInfoOf(t.Context(), w, o.Path())
	if err != nil || r.Infos["out"].Path != o.Path() || !info.Ultimate || len(info.Signatures) != 1 {
		t.Errorf("%+v, %+v, %v", r.Infos["out"], info, err)
	}
}

func TestImpureOutputIsNotRemembered(t *testing.T) {
	w := newWorld(t)
	o := floating(storepath.Recursive)
	o.Kind = derivation.Impure
	job := w.job(t, basic(o, "out"), atFinal)
	w.build(t, job, file{"out", "bin/x", "{out}"})
	r := w.register(t, job, output.Options{Realisations: true})
	known, err := w.Realisations(t.Context(), []store.DrvOutput{r.Realisations["out"].ID})
	if err != nil || known[0] != nil {
		t.Errorf("%+v, %v", known, err)
	}
	if got := w.read(t, r.Infos["out"].Path, "bin/x"); got != w.Dir().Print(r.Infos["out"].Path) {
		t.Errorf("%q", got)
	}
}

func TestFixedOutputs(t *testing.T) {
	w := newWorld(t)
	tree := storetest.Tree(t, w.Dir(), "x", map[string]string{"a": "1", "bin/b": "2"})
	for _, builder := range []string{"/bin/sh", "builtin:fetchurl"} {
		for _, c := range []struct {
			o     derivation.Output
			files []file
		}{
			{fixed(storepath.Recursive, tree.Info.NarHash), []file{{"out", "a", "1"}, {"out", "bin/b", "2"}}},
			{fixed(storepath.Flat, nixhash.Of(nixhash.SHA1, "flat")), []file{{"out", "", "flat"}}},
			{fixed(storepath.Flat, nixhash.Of(nixhash.SHA512, "flat")), []file{{"out", "", "flat"}}},
			{fixed(storepath.Text, nixhash.Of(nixhash.SHA256, "text")), []file{{"out", "", "text"}}},
			{fixed(storepath.Git, nixhash.Of(nixhash.SHA1, "blob 4\x00blob")), []file{{"out", "", "blob"}}},
		} {
			w := newWorld(t)
			d := basic(c.o, "out")
			d.Builder = builder
			job := w.job(t, d, atFinal)
			w.build(t, job, c.files...)
			r := w.register(t, job, output.Options{})
			if info := r.Infos["out"]; info.Path != job.Outputs["out"].Path || info.CA != c.o.CA || !info.IsContentAddressed(w.Dir()) || info.NarHash.IsZero() {
				t.Errorf("%s: %+v", builder, info)
			}
		}
	}
}

// The object is kept under the hash that it has.
func TestFixedOutputWithOtherHash(t *testing.T) {
	w := newWorld(t)
	job := w.job(t, basic(fixed(storepath.Flat, nixhash.Of(nixhash.SHA256, "wanted")), "out"), atFinal)
	w.build(t, job, file{"out", "", "got"})
	f := w.fails(t, job, output.Options{}, store.HashMismatch,
		"hash mismatch in fixed-output derivation '"+w.Dir().Print(job.DrvPath)+"':\n"+
			"  specified: "+nixhash.Of(nixhash.SHA256, "wanted").Digest(nixhash.SRI)+"\n"+
			"     got:    "+nixhash.Of(nixhash.SHA256, "got").Digest(nixhash.SRI))
	other := derivation.Output{Kind: derivation.Fixed, CA: storepath.ContentAddress{Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, "got")}}
	p, err := other.StorePath(w.Dir(), "x", "out")
	if err != nil || !w.isValid(t, p) || w.isValid(t, job.Outputs["out"].Path) {
		t.Errorf("%v: %v, %v", f, p, err)
	}
	w.isSound(t)

	// Nobody waits for whoever else makes that object, who may wait for us.
	w = newWorld(t)
	unlock, err := w.backing.(output.Installer).LockPath(t.Context(), p, true)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	job = w.job(t, basic(fixed(storepath.Flat, nixhash.Of(nixhash.SHA256, "wanted")), "out"), atFinal)
	w.build(t, job, file{"out", "", "got"})
	w.fails(t, job, output.Options{}, store.HashMismatch, "hash mismatch")
	if w.isValid(t, p) {
		t.Error("somebody's object was registered")
	}
}

func TestReferencesAreDiscarded(t *testing.T) {
	w := newWorld(t)
	dep := w.add(t, storetest.File(t, w.Dir(), "dep", "dep"))
	d := basic(floating(storepath.Recursive), "out", "raw")
	d.Env["__json"] = `{"unsafeDiscardReferences":{"raw":true}}`
	job := w.job(t, d, atFinal, dep)
	w.build(t, job, file{"out", "", "{dep} {raw}"}, file{"raw", "", "{dep} {out} {raw}"})
	r := w.register(t, job, output.Options{})
	out, raw := r.Infos["out"], r.Infos["raw"]
	if len(raw.References) != 0 || len(out.References) != 2 {
		t.Errorf("%+v, %+v", out.References, raw.References)
	}
	// "out" refers to it, so it came first, and did not know the path of "out".
	if got := w.read(t, raw.Path, ""); !strings.HasSuffix(got, w.Dir().Print(raw.Path)) || strings.Contains(got, out.Path.HashPart()) {
		t.Errorf("%q", got)
	}
}

// Hard links within and between outputs are no theft.
func TestHardLinks(t *testing.T) {
	w := newWorld(t)
	job := w.job(t, basic(inputAddressed, "out", "dev"), atFinal)
	w.build(t, job, file{"out", "a", "a"}, file{"dev", "a", "a"})
	for _, name := range []string{"out", "dev"} {
		if err := os.Link(filepath.Join(job.Outputs["out"].Real, "a"), filepath.Join(job.Outputs[name].Real, "b")); err != nil {
			t.Fatal(err)
		}
	}
	me := output.Owner{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	w.register(t, job, output.Options{Builder: &me})
}
