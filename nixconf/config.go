package nixconf

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strata-nix/strata/internal/suggest"
)

// Config is the settings that somebody set. It is not for several goroutines
// while it is being put together; after that, any number may read it.
type Config struct {
	values   map[string]*value // by the proper name of the setting
	features map[string]bool
	unknown  map[string]bool
	warnings []Warning
}

// value is what one setting was set to.
type value struct {
	set        bool   // there is a base, else all is appended to the default
	base       string //
	extra      []string
	origins    []Origin // of the base and of what is appended
	overridden bool     // not by the system's file
}

// New makes a Config in which nothing is set.
func New() *Config {
	return &Config{values: map[string]*value{}, features: map[string]bool{}, unknown: map[string]bool{}}
}

// ApplyText sets what a text says, which came from file or what stands for one.
func (c *Config) ApplyText(file, text string) error {
	var p parser
	if err := p.text(file, text); err != nil {
		return err
	}
	return c.apply(p.out)
}

// ApplyFile sets what a file says. An error that is no [ErrConfig] is about
// reading it.
func (c *Config) ApplyFile(file string) error {
	var p parser
	if err := p.file(file); err != nil {
		return err
	}
	return c.apply(p.out)
}

// apply sets the experimental features first, as other settings depend on them.
func (c *Config) apply(list []assignment) error {
	for _, featuresFirst := range []bool{true, false} {
		for _, a := range list {
			if strings.TrimPrefix(a.name, "extra-") == featuresSetting != featuresFirst {
				continue
			}
			if err := c.Set(a.name, a.value, a.origin); err != nil {
				return err
			}
		}
	}
	return nil
}

const featuresSetting = "experimental-features"

// Set sets one setting by any of its names, also with "extra-" before it where it
// is a list. A name that nobody knows is a warning; a value that the setting
// cannot have is an error.
func (c *Config) Set(name, text string, o Origin) error {
	s, known := byName[name]
	extra := false
	if !known {
		var base string
		if base, extra = strings.CutPrefix(name, "extra-"); extra {
			s, known = byName[base]
			known = known && s.Kind.appendable()
		}
	}
	if !known {
		c.warnUnknown(name, o)
		return nil
	}
	if s.Feature != "" && !c.features[s.Feature] {
		c.warn(o, "Ignoring setting '%s' because experimental feature '%s' is not enabled", s.Name, s.Feature)
		return nil
	}
	if err := s.check(text, o); err != nil {
		return err
	}
	v := c.values[s.Name]
	if v == nil {
		v = &value{}
		c.values[s.Name] = v
	}
	v.overridden = true
	if extra {
		v.extra = append(v.extra, fields(text)...)
		v.origins = append(v.origins, o)
	} else {
		*v = value{set: true, base: text, origins: []Origin{o}, overridden: true}
	}
	if s.Name == featuresSetting {
		c.setFeatures(text, extra, o)
	}
	return nil
}

func (c *Config) setFeatures(text string, extra bool, o Origin) {
	if !extra {
		clear(c.features)
	}
	for _, f := range fields(text) {
		if _, known := slices.BinarySearch(Features, f); !known {
			c.warn(o, "unknown experimental feature '%.100s'%s", f, didYouMean(f, Features))
			continue
		}
		c.features[f] = true
		if f == "flakes" {
			c.features["fetch-tree"] = true
		}
	}
}

func (c *Config) warnUnknown(name string, o Origin) {
	if c.unknown[name] {
		return
	}
	c.unknown[name] = true
	c.warnings = append(c.warnings, Warning{Origin: o, unknown: name})
}

func didYouMean(name string, known []string) string {
	if s := suggest.Near(name, known); s != "" {
		return "; did you mean '" + s + "'?"
	}
	return ""
}

func (c *Config) warn(o Origin, format string, args ...any) {
	c.warnings = append(c.warnings, Warning{Origin: o, Text: fmt.Sprintf(format, args...)})
}

// Warnings are about what was passed over, in the order in which it was found.
func (c *Config) Warnings() []Warning {
	list := slices.Clone(c.warnings)
	for i, w := range list {
		if w.unknown != "" { // not until now: daemons read settings of every client, and none of these
			list[i] = Warning{Origin: w.Origin, Text: fmt.Sprintf("unknown setting '%.200s'%s", w.unknown, didYouMean(w.unknown, names))}
		}
	}
	return list
}

// HasFeature tells whether an experimental feature is on.
func (c *Config) HasFeature(name string) bool { return c.features[name] }

// IsSet tells whether anything was set for a setting.
func (c *Config) IsSet(name string) bool { return c.value(name) != nil }

// Origins are where the value of a setting comes from; several where it was
// appended to, none where it was not set.
func (c *Config) Origins(name string) []Origin {
	if v := c.value(name); v != nil {
		return slices.Clone(v.origins)
	}
	return nil
}

// ResetOverridden makes what was set so far the ground that Overrides is about.
func (c *Config) ResetOverridden() {
	for _, v := range c.values {
		v.overridden = false
	}
}

// Overrides are the settings that differ from the system's configuration, as a
// client tells them to a daemon: by name, with "extra-" where it only appends.
func (c *Config) Overrides() map[string]string {
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.values)) {
		switch v := c.values[name]; {
		case !v.overridden:
		case v.set:
			out[name] = strings.Join(append(fields(v.base), v.extra...), " ")
		default:
			out["extra-"+name] = strings.Join(v.extra, " ")
		}
	}
	return out
}

// value panics for what is no setting's proper name: a mistake of our own that
// would otherwise pass for a setting that nobody set.
func (c *Config) value(name string) *value {
	if s, ok := byName[name]; !ok || s.Name != name {
		panic("nixconf: no setting has the proper name " + name)
	}
	return c.values[name]
}
