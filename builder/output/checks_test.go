package output_test

import (
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// "out" refers to itself, to "dev" and to dep, and dep to deep.
func TestOutputChecks(t *testing.T) {
	const structured = "__json"
	for _, c := range []struct {
		attr, value string
		want        string // "": allowed
	}{
		{"allowedReferences", "out dev {dep} {deep}", ""},
		{"allowedReferences", "dev {dep} {deep}", "output '{out}' is not allowed to refer to the following paths:\n  {out}"},
		{"allowedReferences", "", "output '{dev}' is not allowed to refer to the following paths:\n  {deep}"},
		{"allowedRequisites", "dev {dep} {deep}", ""},
		{"allowedRequisites", "out dev {dep}", "is not allowed to refer to the following paths:\n  {deep}"},
		{"disallowedReferences", "{deep}", "output '{dev}' is not allowed"},
		{"disallowedReferences", "", ""},
		{"disallowedRequisites", "{deep}", "following paths:\n  {deep}"},
		{"disallowedRequisites", "out", ""},
		{"disallowedReferences", "out", "output '{out}' is not allowed to refer to the following paths:\n  {out}"},
		{"allowedReferences", "doc", "output check for 'dev' contains output name 'doc', but this is not a valid output of this derivation. (Valid outputs are [dev, out].)"},
		{structured, `{"outputChecks":{"out":{"maxSize":1000}}}`, ""},
		{structured, `{"outputChecks":{"out":{"maxSize":10}}}`, "path '{out}' is too large at 424 bytes; limit is 10 bytes"},
		{structured, `{"outputChecks":{"out":{"maxClosureSize":10000}}}`, ""},
		{structured, `{"outputChecks":{"out":{"maxClosureSize":800}}}`, "closure of path '{out}' is too large at "},
		{structured, `{"outputChecks":{"out":{"allowedRequisites":["dev","{dep}","{deep}"]}}}`, "following paths:\n  {out}"},
		{structured, `{"outputChecks":{"dev":{"allowedReferences":[]}}}`, "output '{dev}' is not allowed"},
		{structured, `{"outputChecks":{"out":{"disallowedRequisites":["{deep}"]}},"allowedReferences":[]}`, "following paths:\n  {deep}"},
		{structured, `{"outputChecks":{"nobody":{"maxSize":0}}}`, ""},
	} {
		w := newWorld(t)
		deep := w.add(t, storetest.File(t, w.Dir(), "deep", "deep"))
		dep := w.add(t, storetest.File(t, w.Dir(), "dep", w.Dir().Print(deep.Path), deep.Path))
		paths := strings.NewReplacer("{deep}", w.Dir().Print(deep.Path), "{dep}", w.Dir().Print(dep.Path))
		d := basic(inputAddressed, "out", "dev")
		d.Env[c.attr] = paths.Replace(c.value)
		job := w.job(t, d, elsewhere, dep)
		w.build(t, job, file{"out", "a", "{out} {dev} {dep}"}, file{"dev", "", "{deep}"})
		if c.want == "" {
			w.register(t, job, output.Options{})
			continue
		}
		want := strings.NewReplacer("{out}", w.Dir().Print(job.Outputs["out"].Path), "{dev}", w.Dir().Print(job.Outputs["dev"].Path)).Replace(paths.Replace(c.want))
		f := w.fails(t, job, output.Options{}, store.OutputRejected, want)
		if w.isValid(t, job.Outputs["out"].Path) || w.isValid(t, job.Outputs["dev"].Path) {
			t.Errorf("registered in spite of %v", f)
		}
	}
}

// A derivation that builds other things while it runs may refer to them.
func TestReferencesToWhatCameDuringTheBuild(t *testing.T) {
	w := newWorld(t)
	job := w.job(t, basic(inputAddressed, "out"), atFinal)
	deep := w.add(t, storetest.File(t, w.Dir(), "deep", "deep"))
	added := w.add(t, storetest.File(t, w.Dir(), "added", w.Dir().Print(deep.Path), deep.Path))
	job.Added = append(job.Added, added.Path)
	job.Attrs.AllChecks.MaxClosureSize = new(uint64)
	w.build(t, job, file{"out", "", w.Dir().Print(added.Path)})
	w.fails(t, job, output.Options{}, store.OutputRejected, "closure of path")
	*job.Attrs.AllChecks.MaxClosureSize = 1000
	if r := w.register(t, job, output.Options{}); len(r.Infos["out"].References) != 1 {
		t.Errorf("%+v", r.Infos["out"])
	}
}

func refTo(p storepath.Path) derivation.CheckRef { return derivation.CheckRef{Path: p} }
