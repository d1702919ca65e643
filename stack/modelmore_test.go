package stack

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/strata-nix/strata/builder"
	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/merge"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// modelRecipes is how many derivations there are.
const modelRecipes = 5

// building is how a store builds: without a sandbox, as the builders are parts of this program.
func building() builder.Options {
	return builder.Options{MaxJobs: 1, System: "x86_64-linux", Execute: execute.Options{Sandbox: execute.Unboxed}}
}

// recipes puts derivations into the source, each of which makes a tree with a link to one of objects, builds them
// there, and gives what that comes to: each derivation and, after it, its output.
func recipes(t *testing.T, root string, objects []storetest.Object) (out []storetest.Object) {
	t.Helper()
	s, err := local.Open(t.Context(), local.Options{Root: root, Build: building()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, o := range objects {
		d := &derivation.Derivation{Basic: derivation.Basic{
			Name: fmt.Sprint("built-", i), Platform: "builtin", Builder: "builtin:buildenv", InputSrcs: []storepath.Path{o.Path()},
			Outputs: map[string]derivation.Output{"out": {Kind: derivation.Deferred}},
			// It is to be built, and not fetched from the source.
			Env: map[string]string{"derivations": "", "manifest": s.Dir().Print(o.Path()), "allowSubstitutes": ""},
		}}
		err := derivation.NewHasher(s.Dir(), s.Derivation).FillIn(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		text, err := d.ATerm(s.Dir())
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.AddDump(t.Context(), store.Dump{
			Name: d.Name + ".drv", Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256},
			Contents: bytes.NewReader(text), References: d.InputSrcs,
		}, store.AddOptions{})
		if err == nil {
			err = buildOne(t.Context(), s, info.Path)
		}
		if err != nil {
			t.Fatal(err)
		}
		made, err := s.DerivationOutputs(t.Context(), info.Path)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, objectOf(t, s, info.Path), objectOf(t, s, made["out"]))
	}
	return out
}

// objectOf reads an object of a store.
func objectOf(t *testing.T, s *local.Store, p storepath.Path) storetest.Object {
	t.Helper()
	infos, err := s.PathInfos(t.Context(), []storepath.Path{p})
	if err != nil || infos[0] == nil {
		t.Fatalf("%s: %v", p, err)
	}
	var b bytes.Buffer
	if err := s.NarFromPath(t.Context(), p, &b); err != nil {
		t.Fatal(err)
	}
	return storetest.Object{Info: infos[0], NAR: b.Bytes()}
}

// buildOne builds the outputs of a derivation.
func buildOne(ctx context.Context, s store.Builder, drv storepath.Path) error {
	res, err := s.BuildPaths(ctx, []derivation.DerivedPath{{Path: drv, Outputs: []string{derivation.AllOutputs}}}, store.BuildNormal)
	if err == nil && !res[0].Status.OK() {
		err = fmt.Errorf("building: %s", res[0].Message)
	}
	return err
}

// addRecipes gives the model derivations and what they make.
func (m *model) addRecipes() {
	m.t.Helper()
	m.deriver = map[int]int{}
	first := len(m.objects)
	m.objects = append(m.objects, recipes(m.t, m.w.path(sourceName), m.objects[:modelRecipes])...)
	for i := first; i < len(m.objects); i += 2 {
		m.deriver[i+1] = i
	}
}

// alive adds to roots what they keep alive by way of references and, as far as they have rows,
// derivers.
func (m *model) alive(roots, rows map[int]bool) map[int]bool {
	all := m.closure(roots)
	for out, drv := range m.deriver {
		if all[out] && rows[out] && rows[drv] {
			maps.Copy(all, m.closure(map[int]bool{drv: true}))
		}
	}
	return all
}

// toBuild is a derivation, with what it refers to, to be added and built.
func (m *model) toBuild() (st *modelStep, drv int) {
	drv = modelObjects + 2*m.rng.IntN(modelRecipes)
	return m.stepOf("build", sortedKeys(m.closure(map[int]bool{drv: true}))...), drv
}

func (m *model) build() bool {
	st, drv := m.toBuild()
	made := m.closure(map[int]bool{drv + 1: true, drv: true})
	for i := range made {
		if !m.valid(i) {
			m.upper[i] = true
		}
	}
	m.perform(st)
	return true
}

// spoilLower changes what objects of the lowers contain of which the upper has need: a check finds
// it, and a repair puts the right thing into the upper, where it stays when the lowers are right
// again.
func (m *model) spoilLower() bool {
	needed := m.closure(m.upper)
	i := m.pick(func(i int) bool { return i < modelObjects && needed[i] && !m.upper[i] && m.below(i) })
	if i < 0 {
		return false
	}
	var files []string
	for _, l := range m.current {
		if m.lowers[l][i] {
			files = append(files, filepath.Join(m.w.path(lowerName(l)), "nix/store", m.objects[i].Path().Base()))
		}
	}
	was, err := os.ReadFile(files[0])
	if err != nil {
		m.t.Fatal(err)
	}
	for _, file := range files {
		m.overwrite(file, bytes.Repeat([]byte{'x'}, len(was)))
	}
	m.mustFind(check.ObjectModified, i)
	m.perform(m.stepOf("repair"))
	m.withoutDuplicates()
	m.upper[i], m.kept[i] = true, true
	m.readable(m.objects[i])
	m.sound(true) // what is still wrong with the lower does not matter here
	for _, file := range files {
		m.overwrite(file, was)
	}
	return true
}

// overwrite changes what a file of a store contains.
func (m *model) overwrite(file string, text []byte) {
	m.t.Helper()
	err := os.Chmod(file, 0o644)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err == nil {
		err = os.Chmod(file, 0o444)
	}
	if err == nil {
		err = os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0))
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// commit makes a lower of the upper, puts it on top of the others, and so has an empty upper.
func (m *model) commit() bool {
	if len(m.upper) == 0 {
		return false
	}
	c := &m.s.Config
	upper, err := local.Open(m.t.Context(), local.Options{Dir: c.StoreDir, Real: c.Upper.Layer, State: c.Upper.State, ReadOnly: true})
	if err != nil {
		m.t.Fatal(err)
	}
	defer upper.Close()
	layers := []merge.Layer{{Name: "upper", Store: upper, Dir: c.Upper.Layer, Take: merge.All}}
	take := merge.Infos
	if m.rng.IntN(2) == 0 {
		take = merge.Referred
	}
	for _, l := range m.current {
		root := m.w.path(lowerName(l))
		s, err := local.Open(m.t.Context(), local.Options{Root: root, ReadOnly: true})
		if err != nil {
			m.t.Fatal(err)
		}
		defer s.Close()
		layers = append(layers, merge.Layer{Name: root, Store: s, Dir: filepath.Join(root, "nix/store"), Take: take})
	}
	plan, err := merge.MakePlan(m.t.Context(), layers, merge.Options{})
	if err != nil || len(plan.Missing)+len(plan.Conflicts) > 0 {
		m.t.Fatalf("%v, missing %v, conflicts %v", err, plan.Missing, plan.Conflicts)
	}
	number, has := len(m.lowers), map[int]bool{}
	if _, err := plan.WriteDirectory(m.t.Context(), m.w.path(lowerName(number)), merge.WriteOptions{}); err != nil {
		m.t.Fatal(err)
	}
	plan.Each(func(p storepath.Path, _ string) { has[m.number[p]] = true })
	for i := range m.upper {
		if !has[i] {
			m.t.Errorf("object %d of the upper is not in the lower that was made of it", i)
		}
	}
	m.lowers = append(m.lowers, has)
	next := append([]int{number}, m.current...)
	m.last = fmt.Sprintf("commit as lower %d, over %v", number, next)
	st := m.stepOf("pivot")
	for _, l := range next {
		st.Next = append(st.Next, m.w.path(lowerName(l)))
	}
	m.perform(st)
	m.moved(next)
	return true
}
