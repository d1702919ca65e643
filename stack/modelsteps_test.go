package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/strata-nix/strata/check"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/substitute"
)

const (
	sourceName   = "source" // a store that has all objects
	modelAtEnv   = "STACK_TEST_MODEL_AT"
	modelStepEnv = "STACK_TEST_MODEL_STEP"
)

// modelStep is one that this process can do, or a child that is killed.
type modelStep struct {
	Do     string
	Dir    string   // of the world
	Names  []string // of objects, references first
	Link   string   // of a root
	Lowers []string // of the stack
	Next   []string // of a pivot
}

func (st *modelStep) paths() []storepath.Path {
	out := make([]storepath.Path, len(st.Names))
	for i, name := range st.Names {
		p, err := storepath.ParseBase(name)
		if err != nil {
			panic(err) // it is ours
		}
		out[i] = p
	}
	return out
}

// modelParts has substituters of which one has everything.
func modelParts(dir string) Parts {
	p := parts()
	p.Upper.NoSync = true // nobody pulls the plug
	p.Upper.Build = building()
	p.Upper.Substituters = []string{"memory://source"}
	p.Upper.Pool = substitute.NewPool(func(ctx context.Context, _ string) (store.Store, error) {
		return local.Open(ctx, local.Options{Root: filepath.Join(dir, sourceName), ReadOnly: true})
	})
	return p
}

// perform does it to a stack that is up.
func (st *modelStep) perform(ctx context.Context, s *Stack) error {
	switch st.Do {
	case "add":
		return st.add(ctx, s)
	case "build":
		if err := st.add(ctx, s); err != nil {
			return err
		}
		return buildOne(ctx, s.Store, st.paths()[len(st.Names)-1])
	case "root":
		_, err := s.Store.AddPermRoot(ctx, st.paths()[0], st.Link)
		return err
	case "gc":
		_, err := s.Store.CollectGarbage(ctx, store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
		return err
	case "delete":
		_, err := s.Store.CollectGarbage(ctx, store.GCOptions{Action: store.DeleteSpecific, Paths: st.paths(), MaxFreed: store.NoLimit})
		return err
	case "optimise":
		_, err := s.Store.OptimiseWith(ctx, optimise.Request{})
		return err
	case "repair":
		r, err := s.Store.Check(ctx, check.Options{Contents: true, Repair: true})
		if err == nil {
			err = errors.Join(r.Errors...)
		}
		return err
	case "pivot":
		_, err := s.Pivot(ctx, PivotOptions{Lowers: st.lowers(st.Next)})
		return err
	}
	return fmt.Errorf("no step '%s'", st.Do)
}

func (st *modelStep) add(ctx context.Context, s *Stack) error {
	source, err := local.Open(ctx, local.Options{Root: filepath.Join(st.Dir, sourceName), ReadOnly: true})
	if err != nil {
		return err
	}
	defer source.Close()
	infos, err := source.PathInfos(ctx, st.paths())
	if err != nil {
		return err
	}
	for _, info := range infos {
		r, err := store.OpenNar(ctx, source, info.Path)
		if err == nil {
			err = errors.Join(s.Store.Add(ctx, info, r, store.AddOptions{NoCheckSigs: true}), r.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (st *modelStep) lowers(paths []string) (out []Lower) {
	for _, p := range paths {
		out = append(out, Lower{Path: p})
	}
	return out
}

// stepAndDie is the child: it brings the stack up, and is killed at a mark of the step,
// unless there are not so many.
func stepAndDie(at int) {
	ctx := context.Background()
	var st modelStep
	err := json.Unmarshal([]byte(os.Getenv(modelStepEnv)), &st)
	c := Config{Upper: Upper{Dir: filepath.Join(st.Dir, "upper")}, Root: filepath.Join(st.Dir, "root"), Lowers: st.lowers(st.Lowers)}
	if err == nil {
		c, err = c.Resolve("/")
	}
	var s *Stack
	if err == nil {
		s, err = Assemble(ctx, c, modelParts(st.Dir))
	}
	if err == nil {
		if err = s.Announce(ctx, nil); err == nil {
			crashpoint.KillAt(at, nil)
			err = st.perform(ctx, s)
			crashpoint.KillAt(1<<30, nil)
		}
		err = errors.Join(err, s.TakeDown(ctx, TakeDownOptions{}))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// walk does one step at random.
func (m *model) walk() {
	m.t.Helper()
	kinds := []struct {
		weight int
		name   string
		do     func() bool // false: there is nothing to do it to
	}{
		{8, "add", m.add}, {5, "root", m.root}, {3, "unroot", m.unroot}, {4, "gc", m.gc}, {3, "delete", m.deleteOne},
		{4, "grow", m.growOne}, {3, "optimise", m.optimise}, {3, "pivot", m.pivot}, {2, "remount", m.remount},
		{2, "lose", m.loseLower}, {2, "spoil", m.spoilUpper}, {4, "kill", m.kill},
		{3, "build", m.build}, {2, "spoil lower", m.spoilLower}, {1, "commit", m.commit},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := m.rng.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			m.last = k.name
			if k.do() {
				m.done[k.name]++
			}
			break
		}
	}
	if m.verify(); m.t.Failed() {
		m.t.Logf("step %d was: %s", m.step, m.last)
	}
	if m.step%16 == 0 {
		m.sound(m.step%64 == 0)
	}
}

func (m *model) stepOf(do string, objects ...int) *modelStep {
	st := &modelStep{Do: do, Dir: m.w.dir}
	for _, i := range objects {
		st.Names = append(st.Names, m.objects[i].Path().Base())
	}
	for _, l := range m.current {
		st.Lowers = append(st.Lowers, m.w.path(lowerName(l)))
	}
	return st
}

func (m *model) perform(st *modelStep) {
	m.t.Helper()
	if err := st.perform(m.t.Context(), m.s); err != nil {
		m.t.Errorf("%s: %v", st.Do, err)
	}
}

// toAdd is an object with what it refers to, references first; their numbers say which
// come first.
func (m *model) toAdd() *modelStep {
	return m.stepOf("add", sortedKeys(m.closure(map[int]bool{m.pick(nil): true}))...)
}

func (m *model) add() bool {
	st := m.toAdd()
	for _, p := range st.paths() {
		if i := m.number[p]; !m.valid(i) {
			m.upper[i] = true
		}
	}
	m.perform(st)
	return true
}

func (m *model) link(i int) string {
	return filepath.Join(m.s.Config.Upper.State, "gcroots", fmt.Sprint("model-", i))
}

func (m *model) root() bool {
	i := m.pick(func(i int) bool { return m.valid(i) && !m.roots[i] })
	if i < 0 {
		return false
	}
	st := m.stepOf("root", i)
	st.Link = m.link(i)
	m.perform(st)
	m.roots[i] = true
	return true
}

func (m *model) unroot() bool {
	i := m.pick(func(i int) bool { return m.roots[i] })
	if i < 0 {
		return false
	}
	if err := os.Remove(m.link(i)); err != nil {
		m.t.Error(err)
	}
	delete(m.roots, i)
	return true
}

func (m *model) gc() bool {
	// What a root in a lower refers to is in that lower, so that nobody looks there: an
	// object that the upper has as well lives by roots of which the upper knows.
	known, rows := maps.Clone(m.roots), m.withRow()
	maps.DeleteFunc(known, func(i int, _ bool) bool { return !rows[i] })
	alive := m.alive(known, rows)
	maps.DeleteFunc(m.upper, func(i int, _ bool) bool { return !alive[i] })
	for i := range m.closure(m.roots) {
		if !m.valid(i) {
			m.t.Fatalf("the model would lose object %d", i)
		}
	}
	m.perform(m.stepOf("gc"))
	return true
}

func (m *model) deleteOne() bool {
	rows, used := m.withRow(), map[int]bool{}
	alive := m.alive(m.roots, rows)
	for out, drv := range m.deriver { // what stays keeps it, alive or not, as in Nix
		used[drv] = rows[out]
	}
	for i := range m.upper {
		for _, r := range m.refs[i] {
			used[r] = true
		}
	}
	// A row that was copied up may refer to it, too, as long as it is there.
	i := m.pick(func(i int) bool { return m.upper[i] && !alive[i] && !used[i] && !m.referred(i) })
	if i < 0 {
		return false
	}
	m.perform(m.stepOf("delete", i))
	delete(m.upper, i)
	return true
}

func (m *model) referred(i int) bool {
	m.t.Helper()
	refs, err := m.s.Store.Own().Referrers(m.t.Context(), []storepath.Path{m.objects[i].Path()})
	if err != nil {
		m.t.Fatal(err)
	}
	return len(refs[0]) > 0
}

// grow adds objects to a lower, as its owner does.
func (m *model) grow(l int, objects ...int) {
	m.t.Helper()
	want := map[int]bool{}
	for _, i := range objects {
		want[i] = true
	}
	for _, i := range sortedKeys(m.closure(want)) {
		if !m.lowers[l][i] {
			m.w.lower(m.t, lowerName(l), m.objects[i])
			m.lowers[l][i] = true
		}
	}
}

func (m *model) growOne() bool {
	m.grow(m.rng.IntN(modelLowers), m.pick(nil))
	return true
}

// optimise drops from the upper what a lower has.
func (m *model) optimise() bool {
	m.perform(m.stepOf("optimise"))
	maps.DeleteFunc(m.upper, func(i int, _ bool) bool { return m.below(i) })
	return true
}

// withoutDuplicates is what a repair leaves. What it has put there for good it does not look at.
func (m *model) withoutDuplicates() {
	for i := range m.upper {
		if m.below(i) && !m.kept[i] {
			delete(m.upper, i)
		}
	}
}

// pivoting chooses other lowers, among them perhaps those that are there.
func (m *model) pivoting() (st *modelStep, next []int) {
	next = m.rng.Perm(modelLowers)[:1+m.rng.IntN(modelLowers)]
	st = m.stepOf("pivot")
	for _, l := range next {
		st.Next = append(st.Next, m.w.path(lowerName(l)))
	}
	return st, next
}

func (m *model) pivot() bool {
	st, next := m.pivoting()
	m.last = fmt.Sprintf("pivot from %v to %v", m.current, next)
	m.perform(st)
	m.moved(next)
	return true
}

// moved makes the model that of a stack over other lowers.
func (m *model) moved(next []int) {
	if slices.Equal(next, m.current) {
		return // nothing has changed, and nothing was looked at
	}
	needed := map[int]bool{}
	for i := range m.upper {
		needed[i] = true
	}
	for i := range m.roots {
		needed[i] = true
	}
	m.current = next
	m.upper = map[int]bool{}
	for i := range m.closure(needed) {
		if !m.below(i) {
			m.upper[i] = true
		}
	}
}

func (m *model) remount() bool {
	m.w.takeDown(m.t, m.s)
	m.s = nil
	m.up()
	return true
}

// loseLower takes an object away from a lower, which a check must find, and puts it
// back.
func (m *model) loseLower() bool {
	needed := m.closure(m.upper)
	i := m.pick(func(i int) bool { return needed[i] && !m.upper[i] && m.below(i) })
	if i < 0 {
		return false
	}
	var moved []string
	for _, l := range m.current {
		if m.lowers[l][i] {
			moved = append(moved, filepath.Join(m.w.path(lowerName(l)), "nix/store", m.objects[i].Path().Base()))
		}
	}
	for n, at := range moved {
		if err := os.Rename(at, m.w.path(fmt.Sprint("lost", n))); err != nil {
			m.t.Fatal(err)
		}
	}
	m.mustFind(check.LowerObjectMissing, i)
	for n, at := range moved {
		if err := os.Rename(m.w.path(fmt.Sprint("lost", n)), at); err != nil {
			m.t.Fatal(err)
		}
	}
	if _, err := m.s.Store.Refresh(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	return true
}

func (m *model) mustFind(code check.Code, i int) {
	m.t.Helper()
	r, err := m.s.Store.Check(m.t.Context(), check.Options{Contents: true})
	if err != nil {
		m.t.Fatal(err)
	}
	path := m.s.Config.StoreDir.Print(m.objects[i].Path())
	if !slices.ContainsFunc(r.Findings, func(f *check.Finding) bool { return f.Code == code && f.Path == path }) {
		m.t.Errorf("no %s of %s is found, but", code, path)
		for _, f := range r.Findings {
			m.t.Logf("%s: %s %s %s", f.Code, f.Layer, f.Path, f.Detail)
		}
	}
}

// spoilUpper changes what an object of the upper contains, and has it repaired.
func (m *model) spoilUpper() bool {
	i := m.pick(func(i int) bool { return m.upper[i] && i < modelObjects })
	if i < 0 {
		return false
	}
	file := filepath.Join(m.s.Config.Mount, m.objects[i].Path().Base())
	err := os.Chmod(file, 0o644)
	if err == nil {
		err = os.WriteFile(file, []byte("something else"), 0o600)
	}
	if err == nil {
		err = os.Chmod(file, 0o444)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.mustFind(check.ObjectModified, i)
	m.perform(m.stepOf("repair"))
	if m.below(i) { // the copy there is right
		delete(m.upper, i)
	}
	m.withoutDuplicates() // they are a disorder, and mended with the rest
	return true
}

// kill has a step done by another process, which is killed in the midst of it. What
// comes of it may be more or less, but nothing is lost and all that is valid is right.
func (m *model) kill() bool {
	var st *modelStep
	var next []int
	switch m.rng.IntN(6) {
	case 0:
		st = m.toAdd()
	case 1:
		st = m.stepOf("gc")
	case 2:
		st = m.stepOf("optimise")
	case 3:
		st = m.stepOf("repair")
	case 4:
		st, next = m.pivoting()
	case 5:
		st, _ = m.toBuild()
	}
	m.w.takeDown(m.t, m.s)
	m.s = nil
	at := m.rng.IntN(24)
	m.last = fmt.Sprintf("kill %s at %d, over %v", st.Do, at, next)
	m.child(st, at)
	before := m.upper
	m.follow(next)
	m.up()
	m.upper = m.ownRows()
	collected := !slices.Equal(m.inLayer(), sortedKeys(m.upper)) || len(m.temporaryLinks()) > 0
	if collected {
		// What has no row is garbage, until it is collected or made anew.
		m.perform(m.stepOf("gc"))
		m.upper = m.ownRows()
		if left := m.temporaryLinks(); len(left) > 0 {
			m.t.Errorf("a collection leaves %q", left)
		}
	}
	for i := range m.closure(m.roots) {
		if !m.valid(i) {
			m.t.Errorf("%s was killed: object %d is lost", st.Do, i)
		}
	}
	if st.Do != "gc" && !collected {
		for i := range before {
			if !m.valid(i) {
				m.t.Errorf("%s was killed: object %d of the upper is lost", st.Do, i)
			}
		}
	}
	m.sound(true)
	m.done["kill "+st.Do]++
	return true
}

// ownRows are the objects of the layer that are valid.
func (m *model) ownRows() map[int]bool {
	m.t.Helper()
	out := map[int]bool{}
	for _, i := range m.inLayer() {
		valid, err := m.s.Store.DB().ValidPaths(m.t.Context(), []storepath.Path{m.objects[i].Path()})
		if err != nil {
			m.t.Fatal(err)
		}
		if len(valid) > 0 {
			out[i] = true
		}
	}
	return out
}

func (m *model) child(st *modelStep, at int) {
	m.t.Helper()
	text, err := json.Marshal(st)
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), modelAtEnv+"="+strconv.Itoa(at), modelStepEnv+"="+string(text))
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState.String() != "signal: killed" {
		m.t.Fatalf("%s, killed at %d: %v\n%s", st.Do, at, err, out)
	}
}

// follow has the model over the lowers for which the upper is made now, or will be
// when it comes up, if next are those of a pivot.
func (m *model) follow(next []int) {
	m.t.Helper()
	if next == nil {
		return
	}
	h, err := pivot.Peek(m.w.path("upper/pivot.journal"))
	if err != nil && !errors.Is(err, pivot.ErrNoJob) {
		m.t.Fatal(err)
	}
	made, err := ReadMade(m.w.path("upper"))
	if err != nil {
		m.t.Fatal(err)
	}
	var is []string
	for _, l := range made.Lowers {
		is = append(is, l.Given)
	}
	var want []string
	for _, l := range next {
		want = append(want, m.w.path(lowerName(l)))
	}
	if slices.Equal(is, want) || h != nil && (h.Phase == pivot.Committed || h.Phase == pivot.Applied) {
		m.current = next
	}
}
