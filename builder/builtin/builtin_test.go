package builtin

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/derivation"
)

func TestUnsupported(t *testing.T) {
	w := newWorld(t, "frobnicate", nil)
	err := w.run()
	if e, ok := errors.AsType[*UnsupportedError](err); !ok || e.Name != "frobnicate" || err.Error() != "unsupported builtin builder 'frobnicate'" {
		t.Error(err)
	}
	names := slices.Sorted(maps.Keys(builders))
	if !slices.Equal(names, []string{"buildenv", "fetchurl", "unpack-channel"}) {
		t.Error(names)
	}
}

func TestStructuredAttributes(t *testing.T) {
	drv := &derivation.Basic{Env: map[string]string{
		"__json": `{"s":"text","n":12,"t":true,"f":false,"nothing":null,"list":["a",1,true],"set":{"a":1},"sets":[{}]}`,
	}}
	got, err := attributesOf(drv)
	want := attributes{"s": "text", "n": "12", "t": "1", "f": "", "nothing": "", "list": "a 1 1"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%q: %v", got, err)
	}
	drv.Env["__json"] = "{"
	if _, err := attributesOf(drv); err == nil {
		t.Error("no error")
	}
}

// Every builder says which of its attributes or outputs is missing.
func TestMissing(t *testing.T) {
	for builder, need := range map[string][]string{
		"fetchurl": {"url"}, "buildenv": {"derivations", "manifest"}, "unpack-channel": {"channelName", "src"},
	} {
		env := make(map[string]string)
		for _, name := range need {
			err := newWorld(t, builder, env).run()
			if err == nil || err.Error() != "attribute '"+name+"' missing" {
				t.Errorf("%s without %s: %v", builder, name, err)
			}
			env[name] = "x"
		}
		env["derivations"] = ""
		w := newWorld(t, builder, env)
		w.Outputs, w.Drv.Outputs = map[string]string{}, map[string]derivation.Output{}
		if err := w.run(); err == nil || !strings.Contains(err.Error(), "requires an 'out' output") {
			t.Errorf("%s without output: %v", builder, err)
		}
	}
}
