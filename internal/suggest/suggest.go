// Package suggest finds what somebody may have meant by a name that is unknown.
package suggest

import (
	"slices"
	"strings"
)

// Near gives the known name that looks most like name, or else one that begins with
// it; "" if none looks much like it. Of several that are as near it gives the first in the
// alphabet.
func Near(name string, known []string) string {
	known = slices.Sorted(slices.Values(known))
	best, least := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(name, k, least); d < least {
			best, least = k, d
		}
	}
	if best != "" || len(name) < 2 {
		return best
	}
	if i := slices.IndexFunc(known, func(k string) bool { return strings.HasPrefix(k, name) }); i >= 0 {
		return known[i]
	}
	return ""
}

// distance is how many letters must be changed, added or dropped to make a out
// of b (Levenshtein), or enough when it is that or more. Case and the kind of
// dash do not count.
func distance(a, b string, enough int) int {
	fold := strings.NewReplacer("_", "-").Replace
	a, b = fold(strings.ToLower(a)), fold(strings.ToLower(b))
	if len(a)-len(b) >= enough || len(b)-len(a) >= enough {
		return enough
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
