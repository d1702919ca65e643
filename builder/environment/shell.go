package environment

import (
	"encoding/json"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// variable is what a shell takes as a name.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// shell writes attributes as declarations for Bash: texts, whole numbers,
// booleans and null, and lists and objects of those. It leaves out all else.
func shell(attrs map[string]any) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		if !variable.MatchString(key) {
			continue
		}
		switch v := attrs[key].(type) {
		case []any:
			if s, ok := shellList(v); ok {
				b.WriteString("declare -a " + key + "=(" + s + ")\n")
			}
		case map[string]any:
			if s, ok := shellObject(v); ok {
				b.WriteString("declare -A " + key + "=(" + s + ")\n")
			}
		default:
			if s, ok := shellWord(v); ok {
				b.WriteString("declare " + key + "=" + s + "\n")
			}
		}
	}
	return b.String()
}

func shellList(list []any) (string, bool) {
	var b strings.Builder
	for _, v := range list {
		s, ok := shellWord(v)
		if !ok {
			return "", false
		}
		b.WriteString(s + " ")
	}
	return b.String(), true
}

func shellObject(object map[string]any) (string, bool) {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(object)) {
		s, ok := shellWord(object[key])
		if !ok {
			return "", false
		}
		b.WriteString("[" + quote(key) + "]=" + s + " ")
	}
	return b.String(), true
}

func shellWord(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return quote(v), true
	case json.Number:
		return shellNumber(v)
	case nil:
		return "''", true
	case bool:
		if v {
			return "1", true
		}
		return "", true
	}
	return "", false
}

// shellNumber gives whole numbers only, with upstream's idea of whole, which is
// that of a 32-bit float, and its idea of numbers, which is that of a 32-bit
// integer.
func shellNumber(n json.Number) (string, bool) {
	if u, err := strconv.ParseUint(string(n), 10, 64); err == nil {
		return strconv.Itoa(int(int32(u))), true //nolint:gosec // cut as upstream does
	}
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return strconv.Itoa(int(int32(i))), true //nolint:gosec // cut as upstream does
	}
	f, err := n.Float64()
	if short := float64(float32(f)); err != nil || math.Ceil(short) != short {
		return "", false
	}
	if f = math.Trunc(f); f < math.MinInt32 || f > math.MaxInt32 {
		return strconv.Itoa(math.MinInt32), true // what the processor makes of it
	}
	return strconv.Itoa(int(f)), true
}

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
