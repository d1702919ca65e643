package derivation

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// Shell is the contents of the file .attrs.sh, before output paths are written
// into it (see [Rewrite]): what of the attributes fits into variables of Bash, as
// declarations of texts, arrays and associative arrays. The rest is left out.
// Source: the Nix manual, "Structured attributes".
func (a *StructuredAttrs) Shell() []byte {
	var b []byte
	for _, name := range sortedKeys(a.values) {
		if isShellName(name) {
			b = appendDeclaration(b, name, a.values[name])
		}
	}
	return b
}

// isShellName tells whether something can be a variable of a shell.
func isShellName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// appendDeclaration appends a line, or nothing for values that are nested.
func appendDeclaration(b []byte, name string, v any) []byte {
	if word, ok := shellWord(v); ok {
		return append(b, "declare "+name+"="+word+"\n"...)
	}
	line := "declare -a " + name + "=("
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			word, ok := shellWord(e)
			if !ok {
				return b
			}
			line += word + " "
		}
	case map[string]any:
		line = "declare -A " + name + "=("
		for _, k := range sortedKeys(v) {
			word, ok := shellWord(v[k])
			if !ok {
				return b
			}
			line += "[" + shellQuote(k) + "]=" + word + " "
		}
	default:
		return b
	}
	return append(b, line+")\n"...)
}

// shellWord is a value as one word: texts, whole numbers, true ("1") and false
// and null ("").
func shellWord(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return shellQuote(v), true
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

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// shellNumber is a number that is whole in single precision, cut to 32 bits:
// upstream does no better, and builders may have come to rely on it.
func shellNumber(n json.Number) (string, bool) {
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return strconv.Itoa(int(int32(i))), true //nolint:gosec // meant
	}
	if u, err := strconv.ParseUint(string(n), 10, 64); err == nil {
		return strconv.Itoa(int(int32(u))), true //nolint:gosec // meant
	}
	f, err := n.Float64()
	if err != nil {
		return "", false
	}
	if single := float64(float32(f)); single != math.Ceil(single) {
		return "", false
	}
	if f >= 1<<31 || f <= -1<<31-1 {
		f = math.MinInt32 // what x86 makes of it
	}
	return strconv.Itoa(int(f)), true
}
