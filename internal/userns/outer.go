package userns

import (
	"os"
	"strconv"
	"strings"
)

// OuterUID gives the number that a user of this user namespace has in the one around it: whom
// root of a namespace that [Command] made really is. In the first namespace, and where it
// cannot be told, that is the same number.
func OuterUID(uid int) int {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return uid
	}
	return outer(string(text), uid)
}

// outer looks a number up in a map: lines of the first number inside, the first outside, and how
// many there are. See user_namespaces(7).
func outer(text string, id int) int {
	for line := range strings.Lines(text) {
		var n [3]int
		fields := strings.Fields(line)
		if len(fields) != len(n) {
			return id
		}
		for i, f := range fields {
			var err error
			if n[i], err = strconv.Atoi(f); err != nil {
				return id
			}
		}
		if id >= n[0] && id-n[0] < n[2] {
			return n[1] + id - n[0]
		}
	}
	return id
}
