package nixconf

import (
	"errors"
	"math"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// The getters take the proper name of a setting and its default, which is what
// they give when it was not set.

// String is a value as it was written.
func (c *Config) String(name, def string) string {
	if v := c.value(name); v != nil && v.set {
		return v.base
	}
	return def
}

// Bool is a truth value.
func (c *Config) Bool(name string, def bool) (bool, error) {
	v := c.value(name)
	if v == nil || !v.set {
		return def, nil
	}
	return parseBool(name, v.base, v.origins[0])
}

// Int is a number.
func (c *Config) Int(name string, def int64) (int64, error) {
	v := c.value(name)
	if v == nil || !v.set {
		return def, nil
	}
	return parseInt(name, v.base, v.origins[0])
}

// Uint is a number that is not negative.
func (c *Config) Uint(name string, def uint64) (uint64, error) {
	v := c.value(name)
	if v == nil || !v.set {
		return def, nil
	}
	n, err := parseInt(name, v.base, v.origins[0])
	if err == nil && n < 0 {
		err = fault(v.origins[0], "setting '%s' has invalid value '%s': it must not be negative", name, v.base)
	}
	return uint64(max(n, 0)), err
}

// Jobs is a number of jobs; "auto" is that of processors.
func (c *Config) Jobs(name string, def uint) (uint, error) {
	v := c.value(name)
	if v == nil || !v.set {
		return def, nil
	}
	return parseJobs(name, v.base, v.origins[0])
}

// Strings are the words of a value, and what was appended to it.
func (c *Config) Strings(name string, def []string) []string {
	out := append([]string(nil), def...)
	v := c.value(name)
	if v == nil {
		return out
	}
	if v.set {
		out = fields(v.base)
	}
	return append(out, v.extra...)
}

// Map are the words "name=value" of a value. Of a name that comes twice the first
// counts; words without "=" are passed over.
func (c *Config) Map(name string) map[string]string {
	out := map[string]string{}
	for _, w := range c.Strings(name, nil) {
		k, v, ok := strings.Cut(w, "=")
		if _, twice := out[k]; ok && !twice {
			out[k] = v
		}
	}
	return out
}

// Path is an absolute path, cleaned.
func (c *Config) Path(name, def string) (string, error) {
	v := c.value(name)
	if v == nil || !v.set {
		return def, nil
	}
	if v.base == "" {
		return "", fault(v.origins[0], "setting '%s' is a path and paths cannot be empty", name)
	}
	if !filepath.IsAbs(v.base) {
		return "", fault(v.origins[0], "setting '%s' has invalid value '%.200s': not an absolute path", name, v.base)
	}
	return filepath.Clean(v.base), nil
}

// check refuses what a setting of the kind cannot be.
func (s *Setting) check(text string, o Origin) (err error) {
	switch s.Kind {
	case Bool:
		_, err = parseBool(s.Name, text, o)
	case Int:
		_, err = parseInt(s.Name, text, o)
	case Jobs:
		_, err = parseJobs(s.Name, text, o)
	}
	return err
}

func parseBool(name, text string, o Origin) (bool, error) {
	switch text {
	case "true", "yes", "1":
		return true, nil
	case "false", "no", "0":
		return false, nil
	}
	return false, fault(o, "Boolean setting '%s' has invalid value '%.200s'", name, text)
}

// parseInt reads a number with an optional binary unit.
func parseInt(name, text string, o Origin) (int64, error) {
	digits, unit := text, int64(1)
	if text != "" {
		if i := strings.IndexByte("KMGT", text[len(text)-1]&^0x20); i >= 0 {
			digits, unit = text[:len(text)-1], 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err == nil && (n > math.MaxInt64/unit || n < math.MinInt64/unit) {
		err = errors.New("it is too big")
	}
	if err != nil {
		return 0, fault(o, "setting '%s' has invalid value '%.200s'", name, text)
	}
	return n * unit, nil
}

func parseJobs(name, text string, o Origin) (uint, error) {
	if text == "auto" {
		return uint(runtime.NumCPU()), nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fault(o, "configuration setting '%s' should be 'auto' or an integer, not '%.200s'", name, text)
	}
	return uint(n), nil
}
