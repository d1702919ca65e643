package check

import "iter"

// graph is what refers to what, by numbers from 0.
type graph interface {
	Len() int
	References(i int) []int32
}

// postorder gives nodes and what they refer to, references first. It needs no stack of
// calls, since closures are deep.
func postorder(g graph, roots []int32) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		seen := make([]bool, g.Len())
		type frame struct {
			node int32
			next int
		}
		var stack []frame
		for _, root := range roots {
			if seen[root] {
				continue
			}
			seen[root] = true
			stack = append(stack, frame{node: root})
			for len(stack) > 0 {
				top := &stack[len(stack)-1]
				refs := g.References(int(top.node))
				if top.next < len(refs) {
					to := refs[top.next]
					top.next++
					if !seen[to] {
						seen[to] = true
						stack = append(stack, frame{node: to})
					}
					continue
				}
				node := top.node
				stack = stack[:len(stack)-1]
				if !yield(node) {
					return
				}
			}
		}
	}
}
