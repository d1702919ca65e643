package local

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
)

func TestSameSettingsGiveTheSameOptions(t *testing.T) {
	c := new(chosen)
	base := Options{URI: "x"}
	for _, settings := range []map[string]string{
		{},
		{"require-sigs": "true"},
		{"require-sigs": "false"},
		{"max-free": "7", "extra-substituters": "a b", "substituters": "c"},
		{"max-free": "7", "extra-substituters": "a", "substituters": "b c"},
	} {
		want, err := base.override(settings)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := c.override(base, maps.Clone(settings))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v gives %+v and not %+v, %v", settings, got, want, err)
			}
		}
	}
	if len(c.options) != 5 {
		t.Errorf("%d options are remembered", len(c.options))
	}
}

func TestMistakesInSettingsAreToldEachTime(t *testing.T) {
	c := new(chosen)
	for range 2 {
		if _, err := c.override(Options{}, map[string]string{"require-sigs": "perhaps"}); err == nil {
			t.Error("nothing is wrong")
		}
	}
	if len(c.options) != 0 {
		t.Errorf("%d options are remembered", len(c.options))
	}
}

func TestFewOptionsAreRemembered(t *testing.T) {
	c := new(chosen)
	for i := range 3 * maxChosen {
		if _, err := c.override(Options{}, map[string]string{"max-free": fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if len(c.options) > maxChosen {
			t.Fatalf("%d options are remembered", len(c.options))
		}
	}
	before := len(c.options)
	for _, settings := range []map[string]string{
		{"substituters": strings.Repeat("x", maxChosenKey)},
		{"secret-key-files": ""},
		{"extra-secret-key-files": ""},
	} {
		if _, err := c.override(Options{}, settings); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.options) != before {
		t.Error("something was remembered that should not be")
	}
}

func TestKeysOfSettingsDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, settings := range []map[string]string{
		{}, {"": ""}, {"a": ""}, {"": "a"}, {"a": "b"}, {"ab": ""}, {"a": "", "b": ""}, {"a": "1 b0 "}, {"a": "", "1 b": ""},
	} {
		key, ok := settingsKey(settings)
		if other := seen[key]; !ok || other != "" {
			t.Errorf("%v has the key of %s", settings, other)
		}
		seen[key] = fmt.Sprint(settings)
	}
}

// BenchmarkOverride is what a client costs that connects with the usual settings.
func BenchmarkOverride(b *testing.B) {
	settings := map[string]string{
		"keep-failed": "false", "keep-going": "false", "fallback": "false", "max-jobs": "1",
		"max-silent-time": "0", "verbose-build": "true", "cores": "0", "substitute": "true",
	}
	for name, c := range map[string]*chosen{"first": nil, "again": new(chosen)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.override(Options{}, settings); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
