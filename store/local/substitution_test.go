package local_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/substitute"
	"github.com/strata-nix/strata/trust"
)

func TestOverrideSubstitution(t *testing.T) {
	const key = "cache.example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	keys, err := trust.ParseKeys([]string{key})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, local.Options{Root: testenv.Scratch(t), Substituters: []string{"https://a"}, RequireSigs: true, SubstitutionJobs: 4})
	base := substitute.Settings{URIs: []string{"https://a"}, RequireSigs: true, Jobs: 4}
	if got := s.Substitution().Settings(); !reflect.DeepEqual(got, base) {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct {
		settings map[string]string
		change   func(*substitute.Settings)
	}{
		{map[string]string{"unknown": "x"}, func(*substitute.Settings) {}},
		{map[string]string{"substitute": "false"}, func(o *substitute.Settings) { o.Off = true }},
		{map[string]string{"fallback": "true"}, func(o *substitute.Settings) { o.Fallback = true }},
		{map[string]string{"max-substitution-jobs": "0"}, func(o *substitute.Settings) { o.Jobs = 1 }},
		{map[string]string{"max-substitution-jobs": "4294967295"}, func(o *substitute.Settings) { o.Jobs = 1000 }},
		{map[string]string{"substituters": " https://b\thttps://c "}, func(o *substitute.Settings) { o.URIs = []string{"https://b", "https://c"} }},
		{map[string]string{"substituters": ""}, func(o *substitute.Settings) { o.URIs = []string{} }},
		{map[string]string{"extra-substituters": "https://b"}, func(o *substitute.Settings) { o.URIs = []string{"https://a", "https://b"} }},
		{map[string]string{"extra-substituters": "https://b", "substituters": "https://c"}, func(o *substitute.Settings) { o.URIs = []string{"https://c", "https://b"} }},
		{map[string]string{"require-sigs": "no"}, func(o *substitute.Settings) { o.RequireSigs = false }},
		{map[string]string{"trusted-public-keys": key}, func(o *substitute.Settings) { o.TrustedKeys = keys }},
	} {
		want := base
		c.change(&want)
		v, err := s.Override(c.settings)
		if err != nil {
			t.Errorf("%v: %v", c.settings, err)
			continue
		}
		if got := v.(*local.Store).Substitution().Settings(); !reflect.DeepEqual(got, want) {
			t.Errorf("%v: %+v, want %+v", c.settings, got, want)
		}
	}
	if got := s.Substitution().Settings(); !reflect.DeepEqual(got, base) {
		t.Errorf("the store itself has changed: %+v", got)
	}
	for name, value := range map[string]string{"substitute": "maybe", "max-substitution-jobs": "-1", "fallback": ""} {
		if _, err := s.Override(map[string]string{name: value}); err == nil || !strings.Contains(err.Error(), "'"+name+"'") {
			t.Errorf("%s = %s: %v", name, value, err)
		}
	}
}
