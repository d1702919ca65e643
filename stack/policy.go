package stack

import (
	"fmt"
	"maps"
	"math"
	"os/user"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/strata-nix/strata/internal/calendar"
)

// Policy says what is garbage of an upper, when it is collected, and who may
// ("gc"). The zero value collects whenever somebody asks, and everything that is
// dead.
type Policy struct {
	// Schedule is when the collections are due that nobody has to ask for
	// ("schedule"); never unless set.
	Schedule calendar.Schedule
	// DeleteOlderThan deletes the generations of profiles first that were not in use
	// any more so long ago ("delete-older-than").
	DeleteOlderThan time.Duration
	// DeleteOld deletes all generations but the current ones ("delete-old").
	DeleteOld bool
	// MaxSize is how many bytes the upper may have on disk ("max-size"): below that
	// nothing is collected, and above no more than is needed. 0: there is no quota.
	MaxSize uint64
	// MaxFreed ends a collection that has freed so many bytes ("max-freed"). 0: it goes
	// on to the end.
	MaxFreed uint64
	// KeepOutputs and KeepDerivations are the settings of that name of the upper
	// ("keep-outputs", "keep-derivations"), for all collections of it.
	KeepOutputs, KeepDerivations Choice
	// MinFree and MaxFree are the settings of that name ("min-free", "max-free"), by which
	// builds collect garbage. nil: those of nix.conf.
	MinFree, MaxFree *uint64
	// Owner is a user whose store this is ("owner"): the one who may collect besides
	// root and who serves it, and whose profiles lose generations.
	Owner string
	// Optimise makes equal files one afterwards, and drops what a lower has by now
	// ("optimise").
	Optimise bool
	// Leases is the place of the leases of those who have this upper for a lower
	// ("leases"): a directory or a URI.
	Leases string
}

// settings are those of nix.conf that the policy is made of.
func (p *Policy) settings() map[string]string {
	out := map[string]string{}
	for name, c := range map[string]Choice{"keep-outputs": p.KeepOutputs, "keep-derivations": p.KeepDerivations} {
		if c != Auto {
			out[name] = strconv.FormatBool(c == Yes)
		}
	}
	for name, n := range map[string]*uint64{"min-free": p.MinFree, "max-free": p.MaxFree} {
		if n != nil {
			out[name] = strconv.FormatUint(*n, 10)
		}
	}
	return out
}

// policy checks a policy and puts its settings among the others.
func (r *resolver) policy(p *Policy, settings map[string]string) map[string]string {
	if p.DeleteOlderThan < 0 {
		r.fail("gc.delete-older-than", "%s is less than nothing", p.DeleteOlderThan)
	}
	if p.Owner != "" {
		if _, err := lookup(p.Owner); err != nil {
			r.fail("gc.owner", "%v", err)
		}
	}
	all := make(map[string]string, len(settings))
	for name, v := range settings {
		all[name] = v
	}
	for name, v := range p.settings() {
		if was, ok := all[name]; ok && was != v {
			r.fail("gc."+name, "is %s, and 'settings.%s' is %s; say it once", v, name, was)
		}
		all[name] = v
	}
	return all
}

// owner is the number of the owner, -1 if there is none.
func (p *Policy) owner() (int, error) {
	if p.Owner == "" {
		return -1, nil
	}
	return lookup(p.Owner)
}

// lookup is lookupUser, but for tests.
var lookup = lookupUser

// lookupUser finds a user by name or number.
func lookupUser(name string) (uid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return 0, fmt.Errorf("there is no user '%.80s'", name)
		}
	}
	return strconv.Atoi(u.Uid)
}

// filePolicy is [gc] in strata.toml.
type filePolicy struct {
	Schedule        string `toml:"schedule"`
	DeleteOlderThan string `toml:"delete-older-than"`
	DeleteOld       bool   `toml:"delete-old"`
	MaxSize         any    `toml:"max-size"`
	MaxFreed        any    `toml:"max-freed"`
	KeepOutputs     *bool  `toml:"keep-outputs"`
	KeepDerivations *bool  `toml:"keep-derivations"`
	MinFree         any    `toml:"min-free"`
	MaxFree         any    `toml:"max-free"`
	Owner           string `toml:"owner"`
	Optimise        bool   `toml:"optimise"`
	Leases          string `toml:"leases"`
}

// policy takes what is set in the file.
func (f *filePolicy) policy() (p Policy, err error) {
	v := reflect.ValueOf(*f)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			continue
		}
		field := v.Field(i)
		if field.Kind() == reflect.Pointer || field.Kind() == reflect.Interface {
			field = field.Elem()
		}
		if err := p.Set(v.Type().Field(i).Tag.Get("toml"), fmt.Sprint(field.Interface())); err != nil {
			return p, err
		}
	}
	return p, nil
}

// policyKeys are what can be set of a policy, as texts.
var policyKeys = map[string]func(*Policy, string) error{
	"schedule": func(p *Policy, v string) (err error) { p.Schedule, err = calendar.Parse(v); return err },
	"delete-older-than": func(p *Policy, v string) (err error) {
		p.DeleteOlderThan, err = calendar.ParseSpan(v)
		return err
	},
	"delete-old":       setBool(func(p *Policy, b bool) { p.DeleteOld = b }),
	"max-size":         setBytes(func(p *Policy, n uint64) { p.MaxSize = n }),
	"max-freed":        setBytes(func(p *Policy, n uint64) { p.MaxFreed = n }),
	"keep-outputs":     setBool(func(p *Policy, b bool) { p.KeepOutputs = choice(&b) }),
	"keep-derivations": setBool(func(p *Policy, b bool) { p.KeepDerivations = choice(&b) }),
	"min-free":         setBytes(func(p *Policy, n uint64) { p.MinFree = &n }),
	"max-free":         setBytes(func(p *Policy, n uint64) { p.MaxFree = &n }),
	"owner":            func(p *Policy, v string) error { p.Owner = v; return nil },
	"optimise":         setBool(func(p *Policy, b bool) { p.Optimise = b }),
	"leases":           func(p *Policy, v string) error { p.Leases = v; return nil },
}

func setBool(set func(*Policy, bool)) func(*Policy, string) error {
	return func(p *Policy, v string) error {
		c, err := parseChoice(v)
		if err != nil || c == Auto {
			return fmt.Errorf("'%.40s' is neither true nor false", v)
		}
		set(p, c == Yes)
		return nil
	}
}

func setBytes(set func(*Policy, uint64)) func(*Policy, string) error {
	return func(p *Policy, v string) error {
		n, err := byteCount(v)
		if err == nil {
			set(p, n)
		}
		return err
	}
}

// Set sets one key of the policy, named as in strata.toml. Mistakes are
// [*ConfigError]s.
func (p *Policy) Set(key, value string) error {
	set, known := policyKeys[key]
	if !known {
		return &ConfigError{"gc." + key, "there is no such key" + meant(key, slices.Collect(maps.Keys(policyKeys)))}
	}
	if err := set(p, value); err != nil {
		return &ConfigError{"gc." + key, err.Error()}
	}
	return nil
}

func choice(b *bool) Choice {
	switch {
	case b == nil:
		return Auto
	case *b:
		return Yes
	}
	return No
}

// byteCount reads a number of bytes, which may end in K, M, G or T, powers of 1024.
func byteCount(v string) (uint64, error) {
	digits := strings.TrimRight(v, "KMGTkmgt")
	shift := 0
	if unit := v[len(digits):]; len(unit) == 1 {
		shift = 10 * (strings.Index("KMGT", strings.ToUpper(unit)) + 1)
	} else if unit != "" {
		digits = "" // which is no number
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return 0, fmt.Errorf("'%.40s' is not a number of bytes such as 1048576 or \"10G\"", v)
	}
	return n << shift, nil
}
