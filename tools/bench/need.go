package main

import (
	"fmt"
	"slices"
	"strings"
)

// need names an input: a kind, and what there is to choose.
type need struct {
	kind  needKind
	n     int    // how many
	codec string // of a cache
}

type needKind string

const (
	needPaths   needKind = "paths"   // paths without objects
	needTrees   needKind = "trees"   // small objects
	needEmpty   needKind = "empty"   // objects that are just directory entries
	needObjects needKind = "objects" // real objects

	needPrograms needKind = "programs" // real objects with programs that run
)

func (n need) String() string {
	return fmt.Sprintf("%s-%d-%s", n.kind, n.n, n.codec)
}

// make makes an input, or finds it in the cache.
func (m *maker) make(n need) (dir string, err error) {
	switch n.kind {
	case needPaths:
		dir, err = m.paths(n.n)
	case needTrees:
		dir, err = m.trees(n.n, false)
	case needEmpty:
		dir, err = m.trees(n.n, true)
	case needObjects:
		dir, err = m.objects()
	case needPrograms:
		dir, err = m.programs()
	default:
		err = fmt.Errorf("no input is called %s", n)
	}
	if err == nil && n.codec != "" {
		dir, err = m.cache(dir, n.codec)
	}
	return dir, err
}

// inputs are the directories of what rows need, by the needs' names; those that
// could not be made have a reason instead.
type inputs struct {
	Dirs map[string]string
	Why  map[string]string
}

func (m *maker) makeAll(rows []row) (inputs, error) {
	in := inputs{Dirs: map[string]string{}, Why: map[string]string{}}
	for _, r := range rows {
		for _, n := range r.needs {
			key := n.String()
			if in.Dirs[key] != "" || in.Why[key] != "" {
				continue
			}
			dir, err := m.make(n)
			if m.ctx.Err() != nil {
				return in, m.ctx.Err()
			}
			if err != nil {
				in.Why[key] = err.Error()
				continue
			}
			in.Dirs[key] = dir
		}
	}
	return in, nil
}

// missing says why a row cannot run, "" if it can.
func (in inputs) missing(r row) string {
	i := slices.IndexFunc(r.needs, func(n need) bool { return in.Why[n.String()] != "" })
	if i < 0 {
		return ""
	}
	why, _, _ := strings.Cut(in.Why[r.needs[i].String()], "\n")
	return why
}
