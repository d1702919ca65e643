package stack

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

const (
	modelSteps   = 150
	modelObjects = 40
	modelLowers  = 4
)

// TestRandomWalk does at random whatever can be done to a stack, and compares each
// layer with a model after each step.
func TestRandomWalk(t *testing.T) {
	testenv.Long(t)
	inEach(t, func(t *testing.T, w *world) {
		seed, steps := testenv.Walk(t, modelSteps)
		m := newModel(t, w, seed)
		for m.step = range steps {
			m.walk()
			if t.Failed() {
				t.Fatalf("after step %d", m.step)
			}
		}
		m.w.takeDown(t, m.s)
		t.Logf("%d steps of each kind: %v", steps, m.done)
	})
}

// model is what a stack should be: which objects each layer has, and what keeps them.
type model struct {
	t       *testing.T
	w       *world
	rng     *rand.Rand
	step    int
	last    string // step
	done    map[string]int
	objects []storetest.Object
	refs    [][]int // of objects, by their numbers
	number  map[storepath.Path]int

	s       *Stack
	current []int          // numbers of the lowers, first wins
	lowers  []map[int]bool // what each has
	upper   map[int]bool   // what lies in the upper layer
	roots   map[int]bool   // what gc roots lead to
	kept    map[int]bool   // what a repair has ever put into the upper for good
	deriver map[int]int    // of those objects that were built
}

func newModel(t *testing.T, w *world, seed uint64) *model {
	m := &model{t: t, w: w, rng: rand.New(rand.NewPCG(seed, 0)), done: map[string]int{}, number: map[storepath.Path]int{}, //nolint:gosec // repeatable
		upper: map[int]bool{}, roots: map[int]bool{}, kept: map[int]bool{}, current: []int{0, 1}}
	m.objects = storetest.Web(t, storepath.DefaultDir, modelObjects)
	w.lower(t, sourceName, m.objects...)
	m.addRecipes()
	for i, o := range m.objects {
		m.number[o.Path()] = i
		var refs []int
		for _, r := range o.Info.References {
			refs = append(refs, m.number[r])
		}
		m.refs = append(m.refs, refs)
	}
	for i := range modelLowers {
		m.lowers = append(m.lowers, map[int]bool{})
		w.lower(t, lowerName(i))
		m.grow(i, m.pick(nil), m.pick(nil))
	}
	m.up()
	return m
}

func lowerName(i int) string { return fmt.Sprintf("lower%d", i) }

// config is that of the stack as it is now.
func (m *model) config() Config {
	var paths []string
	for _, i := range m.current {
		paths = append(paths, m.w.path(lowerName(i)))
	}
	return m.w.config(m.t, paths...)
}

func (m *model) up() {
	m.t.Helper()
	s, err := Assemble(m.t.Context(), resolved(m.t, m.config()), modelParts(m.w.dir))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if m.s == s {
			_ = s.TakeDown(context.Background(), TakeDownOptions{Lazy: true})
		}
	})
	if err := s.Announce(m.t.Context(), nil); err != nil {
		m.t.Fatal(err)
	}
	m.s = s
}

// pick chooses an object for which ok says yes, -1 if there is none; nil: any.
func (m *model) pick(ok func(int) bool) int {
	all := m.rng.Perm(len(m.objects))
	for _, i := range all {
		if ok == nil || ok(i) {
			return i
		}
	}
	return -1
}

// closure adds everything that objects refer to.
func (m *model) closure(of map[int]bool) map[int]bool {
	all := map[int]bool{}
	var add func(i int)
	add = func(i int) {
		if !all[i] {
			all[i] = true
			for _, r := range m.refs[i] {
				add(r)
			}
		}
	}
	for i := range of {
		add(i)
	}
	return all
}

// below tells whether a lower of the stack has an object.
func (m *model) below(i int) bool {
	return slices.ContainsFunc(m.current, func(l int) bool { return m.lowers[l][i] })
}

func (m *model) valid(i int) bool { return m.upper[i] || m.below(i) }

// verify compares everything with the model.
func (m *model) verify() {
	m.t.Helper()
	if got := m.inLayer(); !slices.Equal(got, sortedKeys(m.upper)) {
		m.t.Errorf("the upper layer has %v, and should have %v", got, sortedKeys(m.upper))
	}
	for i, o := range m.objects {
		valid, err := m.s.Store.ValidPaths(m.t.Context(), []storepath.Path{o.Path()})
		if err != nil || (len(valid) > 0) != m.valid(i) {
			m.t.Errorf("object %d is valid: %v (%v), should be: %v", i, len(valid) > 0, err, m.valid(i))
		}
		if m.valid(i) {
			m.readable(o)
		}
	}
	for _, l := range m.current {
		if got := m.inDir(filepath.Join(m.w.path(lowerName(l)), "nix/store")); !slices.Equal(got, sortedKeys(m.lowers[l])) {
			m.t.Errorf("lower %d has %v, and should have %v", l, got, sortedKeys(m.lowers[l]))
		}
	}
	m.rows()
}

func (m *model) readable(o storetest.Object) {
	m.t.Helper()
	var b bytes.Buffer
	if err := nar.Dump(m.t.Context(), &b, filepath.Join(m.s.Config.Mount, o.Path().Base())); err != nil || !bytes.Equal(b.Bytes(), o.NAR) {
		m.t.Errorf("%s: %d bytes, %v", o.Path(), b.Len(), err)
	}
}

// rows looks at the upper's database: everything in the layer has a row, a row has an
// object in some layer, and what it refers to has a row.
func (m *model) rows() {
	m.t.Helper()
	db := m.s.Store.DB()
	if damages, err := db.Check(m.t.Context(), nixdb.Thorough); err != nil || len(damages) > 0 {
		m.t.Errorf("database: %v, %v", damages, err)
	}
	rows := m.withRow()
	for i := range rows {
		if !m.valid(i) {
			m.t.Errorf("a row without an object: %d", i)
		}
	}
	for i := range m.closure(m.upper) {
		if !rows[i] {
			m.t.Errorf("no row of object %d", i)
		}
	}
}

// withRow are the objects of which the upper's database knows.
func (m *model) withRow() map[int]bool {
	m.t.Helper()
	rows := map[int]bool{}
	for info, err := range m.s.Store.DB().AllPathInfos(m.t.Context()) {
		if err != nil {
			m.t.Fatal(err)
		}
		i, known := m.number[info.Path]
		if !known {
			m.t.Errorf("a row of a stranger: %s", info.Path)
			continue
		}
		rows[i] = true
	}
	return rows
}

func (m *model) inLayer() []int { return m.inDir(m.s.Config.Upper.Layer) }

func (m *model) inDir(dir string) []int {
	m.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		m.t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		p, err := storepath.ParseBase(e.Name())
		if err != nil || p.Name() == "strata-trash" || temporaryLink(p) { // of what was killed
			continue
		}
		i, known := m.number[p]
		if !known || e.Type()&os.ModeCharDevice != 0 {
			m.t.Errorf("%s holds %s", dir, e)
			continue
		}
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}

// temporaryLink tells whether this is what a killed optimisation leaves for the next
// collection.
func temporaryLink(p storepath.Path) bool { return strings.HasPrefix(p.Name(), "strata-tmp-link-") }

func (m *model) temporaryLinks() (out []string) {
	m.t.Helper()
	all, err := filepath.Glob(filepath.Join(m.s.Config.Upper.Layer, "*"))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range all {
		if p, err := storepath.ParseBase(filepath.Base(name)); err == nil && temporaryLink(p) {
			out = append(out, name)
		}
	}
	return out
}

// sound has everything checked. Nothing may be damaged, also right after a crash.
func (m *model) sound(contents bool) {
	m.t.Helper()
	r, err := m.s.Store.Check(m.t.Context(), check.Options{Contents: contents})
	if err != nil || len(r.Errors) > 0 {
		m.t.Fatal(err, r.Errors)
	}
	if damage, _ := r.Left(); damage > 0 {
		for _, f := range r.Findings {
			m.t.Errorf("%s: %s %s %s", f.Code, f.Layer, f.Path, f.Detail)
		}
	}
}

func sortedKeys(set map[int]bool) []int {
	var out []int
	for i, in := range set {
		if in {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out
}
