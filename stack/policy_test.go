package stack

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/internal/calendar"
)

const policyText = `
consumer = "dev-of-alice"
watch = "poll"
watch-interval = "30s"

[[lower]]
path = "/mnt/base"
roots = false
leases = "leases/base"
lease-required = false

[upper]
dir = "/up"

[gc]
schedule = "Mon..Fri 03:00"
delete-older-than = "30d"
delete-old = true
max-size = "10G"
max-freed = 4096
keep-outputs = true
keep-derivations = false
min-free = "1G"
max-free = "3G"
owner = "0"
optimise = true
leases = "s3://bucket/prefix"
`

func TestParsePolicy(t *testing.T) {
	c, err := Parse("x.toml", []byte(policyText), "/etc/strata")
	if err != nil {
		t.Fatal(err)
	}
	schedule, err := calendar.Parse("Mon..Fri 03:00")
	if err != nil {
		t.Fatal(err)
	}
	minFree, maxFree := uint64(1<<30), uint64(3<<30)
	want := Policy{
		Schedule: schedule, DeleteOlderThan: 30 * 24 * time.Hour, DeleteOld: true, MaxSize: 10 << 30, MaxFreed: 4096,
		KeepOutputs: Yes, KeepDerivations: No, MinFree: &minFree, MaxFree: &maxFree, Owner: "0", Optimise: true, Leases: "s3://bucket/prefix",
	}
	if d := cmp.Diff(want, c.GC); d != "" {
		t.Error(d)
	}
	// What can be said in the file can be said with flags.
	var set Policy
	for key, value := range map[string]string{
		"schedule": "Mon..Fri 03:00", "delete-older-than": "30d", "delete-old": "true", "max-size": "10G", "max-freed": "4096",
		"keep-outputs": "true", "keep-derivations": "false", "min-free": "1G", "max-free": "3G", "owner": "0", "optimise": "true",
		"leases": "s3://bucket/prefix",
	} {
		if err := set.Set(key, value); err != nil {
			t.Error(err)
		}
	}
	if d := cmp.Diff(want, set); d != "" {
		t.Error(d)
	}
	if err := set.Set("max-sise", "1"); err == nil || !strings.Contains(err.Error(), "did you mean 'max-size'?") {
		t.Error(err)
	}
	l := c.Lowers[0]
	if l.Roots != No || l.Leases != "/etc/strata/leases/base" || l.LeaseRequired != No {
		t.Errorf("the lower: %+v", l)
	}
	if c.Consumer != "dev-of-alice" || c.Watch != (Watch{WatchPoll, 30 * time.Second}) {
		t.Errorf("%q, %+v", c.Consumer, c.Watch)
	}
	r := resolved(t, c)
	for name, want := range map[string]string{
		"keep-outputs": "true", "keep-derivations": "false", "min-free": "1073741824", "max-free": "3221225472",
	} {
		if got := r.Settings[name]; got != want {
			t.Errorf("setting %s is %q", name, got)
		}
	}
}

func TestLowerInOneText(t *testing.T) {
	l, err := ParseLower("/mnt/base?leases=s3://b/p&roots=true&lease-required=false")
	if err != nil || l.Leases != "s3://b/p" || l.Roots != Yes || l.LeaseRequired != No {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err = ParseLower("unix:///run/x.sock?leases=/srv/leases&root=/mnt"); err != nil || l.Leases != "/srv/leases" || l.Store.Param("leases") != "" {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err = ParseLower("/mnt/base?roots=yes"); err == nil || !strings.Contains(err.Error(), "roots") {
		t.Error(err)
	}
}

func TestPolicyMistakes(t *testing.T) {
	for text, want := range map[string]string{
		`gc.schedule = "now and then"`:                          "gc.schedule: malformed schedule",
		`gc.delete-older-than = "-1d"`:                          "gc.delete-older-than: malformed schedule",
		`gc.max-size = "10 GB"`:                                 `gc.max-size: '10 GB' is not a number of bytes`,
		`gc.max-freed = -1`:                                     `gc.max-freed: '-1' is not a number of bytes`,
		`gc.max-freed = "99999999T"`:                            `gc.max-freed: '99999999T' is not`,
		`gc.minfree = 1`:                                        "did you mean 'min-free'?",
		`gc.owner = "nobody-has-this-name"`:                     "gc.owner: there is no user 'nobody-has-this-name'",
		`consumer = "../x"`:                                     "consumer:",
		`watch = "sometimes"`:                                   "watch: 'sometimes' is none of",
		`watch-interval = "1ms"`:                                "watch-interval: 1ms is too often",
		"gc.keep-outputs = true\nsettings.keep-outputs = false": "gc.keep-outputs: is true, and 'settings.keep-outputs' is false",
	} {
		c, err := Parse("x.toml", []byte("lowers = [\"/b\"]\nupper.dir = \"/u\"\n"+text+"\n"), "/")
		if err == nil {
			_, err = c.Resolve("/")
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The name under which owners of lowers know a stack is the same each time, and
// another one with another upper.
func TestConsumer(t *testing.T) {
	name := func(upper string) string {
		return resolved(t, Config{Lowers: []Lower{{Path: "/b"}}, Upper: Upper{Dir: upper}}).Consumer
	}
	a, b := name("/x/dev"), name("/y/dev")
	if a != name("/x/dev") || a == b || !strings.HasPrefix(a, "dev-") {
		t.Errorf("%q, %q", a, b)
	}
	var ce *ConfigError
	if _, err := (Config{Lowers: []Lower{{Path: "/b"}}, Upper: Upper{Dir: "/u"}, Consumer: "a/b"}).Resolve("/"); !errors.As(err, &ce) || ce.Key != "consumer" {
		t.Error(err)
	}
}
