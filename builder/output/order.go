package output

import "slices"

// order gives the names of all outputs, each after those that it refers to. Among
// those that do not care it is upstream's, on which depends what is rewritten in an
// output whose references are not looked for.
func (r *registration) order() ([]string, error) {
	s := sorter{r: r, visited: map[string]bool{}, open: map[string]bool{}}
	for _, name := range r.names {
		if err := s.visit(name, ""); err != nil {
			return nil, err
		}
	}
	return s.sorted, nil
}

type sorter struct {
	r             *registration
	visited, open map[string]bool
	sorted        []string
}

func (s *sorter) visit(name, from string) error {
	if s.open[name] {
		return rejectf("cycle detected in build of '%s' in the references of output '%s' from output '%s'", s.r.drv(), name, from)
	}
	if s.visited[name] {
		return nil
	}
	s.visited[name], s.open[name] = true, true
	for _, ref := range s.r.otherOutputs(name) {
		if err := s.visit(ref, name); err != nil {
			return err
		}
	}
	s.open[name] = false
	s.sorted = append(s.sorted, name)
	return nil
}

// otherOutputs are the outputs that one refers to, sorted. One that is not touched
// refers to none that is.
func (r *registration) otherOutputs(name string) []string {
	m := r.made[name]
	if m == nil {
		return nil
	}
	var names []string
	for _, p := range m.scan.refs {
		if ref, ok := r.byPart[p.HashPart()]; ok && ref != name {
			names = append(names, ref)
		}
	}
	slices.Sort(names)
	return names
}
