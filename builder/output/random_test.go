package output_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/nar/refscan"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// randomFiles makes outputs that refer to themselves and to those before them, also in
// the midst of much else, and where buffers end.
func randomFiles(rnd *rand.Rand, outputs []string) []file {
	var files []file
	for i, name := range outputs {
		for n := range 1 + rnd.IntN(3) {
			var text strings.Builder
			for range rnd.IntN(4) {
				text.WriteString(strings.Repeat(string("e1 \n"[rnd.IntN(4)]), rnd.IntN(1<<rnd.IntN(20))))
				text.WriteString("{" + outputs[rnd.IntN(i+1)] + "}")
			}
			files = append(files, file{name, fmt.Sprintf("%d/f", n), text.String()})
		}
	}
	rnd.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	return files
}

// Whatever outputs refer to, and whatever they are called while they are built, the
// objects follow from the contents, and nothing in them is left of the building.
func TestRandomFloatingOutputs(t *testing.T) {
	outputs := []string{"a", "b", "c", "d", "e"}
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		names := slices.Clone(outputs)
		rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		files := randomFiles(rnd, names)
		var first *output.Result
		for builder := range 2 {
			w := newWorld(t)
			d := basic(floating(storepath.Recursive), outputs...)
			d.Env["builder"] = fmt.Sprint(builder)
			job := w.job(t, d, atFinal)
			w.build(t, job, files...)
			r := w.register(t, job, output.Options{})
			for name, info := range r.Infos {
				if !info.IsContentAddressed(w.Dir()) {
					t.Errorf("seed %d: %s has another path than it should", seed, name)
				}
				for _, f := range files {
					if f.output == name && strings.Contains(w.read(t, info.Path, f.name), job.Outputs[name].Scratch.HashPart()) {
						t.Errorf("seed %d: %s has its scratch path in it", seed, name)
					}
				}
				if first != nil && (first.Infos[name].Path != info.Path || first.Infos[name].NarHash != info.NarHash) {
					t.Errorf("seed %d: %s is %s by one builder and %s by another", seed, name, first.Infos[name].Path, info.Path)
				}
			}
			first = r
		}
	}
}

// Builds that come to the same objects at the same moment neither wait for each other
// nor get in each other's way.
func TestTheSameOutputsAtOnce(t *testing.T) {
	w := newWorld(t)
	files := []file{{"a", "x", "{a}{b}{c}"}, {"b", "x", "{b}{c}"}, {"c", "x", "{c}"}}
	var jobs []*output.Job
	for i := range 8 {
		d := basic(floating(storepath.Recursive), "a", "b", "c")
		d.Env["nr"] = fmt.Sprint(i)
		job := w.job(t, d, atFinal)
		w.build(t, job, files...)
		jobs = append(jobs, job)
	}
	results := make([]*output.Result, len(jobs))
	var wg sync.WaitGroup
	for i, job := range jobs {
		wg.Go(func() {
			r, err := output.Register(t.Context(), w.backing, job, output.Options{Realisations: true})
			if err != nil {
				t.Error(err)
			}
			results[i] = r
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, r := range results {
		for name, info := range r.Infos {
			if info.Path != results[0].Infos[name].Path {
				t.Errorf("%s and %s", info.Path, results[0].Infos[name].Path)
			}
		}
	}
	if got := w.objects(t); len(got) != 3 {
		t.Errorf("%q", got)
	}
	w.isSound(t)
}

// Whole hash parts are references, wherever they are, and nothing else is.
func TestReferencesAreThoseThatOccur(t *testing.T) {
	w := newWorld(t)
	job := w.job(t, basic(inputAddressed, "out"), atFinal)
	var inputs []storepath.Path
	for i := range 300 {
		p := scratchPath(t, w.Dir(), job.DrvPath, fmt.Sprint(i))
		job.Inputs = append(job.Inputs, &store.PathInfo{Path: p})
		inputs = append(inputs, p)
	}
	want := storepath.SortUnique([]storepath.Path{inputs[0], inputs[100], inputs[299]})
	var text strings.Builder
	for _, p := range want {
		text.WriteString(strings.Repeat("0123456789abcdef", 20_000) + p.HashPart())
	}
	text.WriteString(inputs[5].HashPart()[:refscan.Len-1] + " " + strings.ToUpper(inputs[6].Base()))
	w.build(t, job, file{"out", "a", text.String()})
	// The inputs are made up: only what is found out is of interest.
	_, err := output.Register(t.Context(), w.backing, job, output.Options{})
	var missing *store.InvalidPathError
	if !errors.As(err, &missing) {
		t.Fatalf("%v", err)
	}
	job.Attrs.AllChecks.AllowedReferences = nil
	job.Attrs.AllChecks.DisallowedReferences = nil
	for _, p := range inputs {
		job.Attrs.AllChecks.DisallowedReferences = append(job.Attrs.AllChecks.DisallowedReferences, refTo(p))
	}
	w.build(t, job, file{"out", "a", text.String()})
	list := ""
	for _, p := range want {
		list += "\n  " + w.Dir().Print(p)
	}
	if f := w.fails(t, job, output.Options{}, store.OutputRejected, list); !strings.HasSuffix(f.Message, list) {
		t.Errorf("%s", f.Message)
	}
}
