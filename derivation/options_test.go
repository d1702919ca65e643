package derivation

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/storepath"
)

const (
	objectA = "/nix/store/00000000000000000000000000000000-a"
	objectB = "/nix/store/00000000000000000000000000000001-b"
)

func options(t *testing.T, env map[string]string) (*Options, error) {
	t.Helper()
	return (&Basic{Name: "x", Env: env}).Options(storepath.DefaultDir)
}

func path(t *testing.T, s string) storepath.Path {
	t.Helper()
	p, err := storepath.DefaultDir.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOptionsOfNothing(t *testing.T) {
	for _, env := range []map[string]string{nil, {"__json": "{}"}} {
		o, err := options(t, env)
		if err != nil {
			t.Fatal(err)
		}
		if o.NoChroot || o.PreferLocalBuild || !o.AllowSubstitutes || len(o.RequiredSystemFeatures) > 0 || (o.Structured == nil) != (env == nil) || len(o.Warnings) > 0 {
			t.Errorf("%v: %+v", env, o)
		}
		if c := o.Checks("out"); c != nil && (env != nil || c.AllowedReferences != nil || c.AllowedRequisites != nil || !c.IgnoreSelf) {
			t.Errorf("%v: %+v", env, c)
		}
	}
}

// The same attributes, as words and as JSON.
func TestOptionsInBothForms(t *testing.T) {
	plain, err := options(t, map[string]string{
		"allowedReferences": "out " + objectA, "allowedRequisites": "", "disallowedReferences": objectB + "\n\tdev", "disallowedRequisites": objectA + "/bin",
		"exportReferencesGraph": "a-b.c " + objectA + "/x  _ " + objectB, "passAsFile": "b a\nb",
		"__noChroot": "1", "__impureHostDeps": "/dev/kvm", "impureEnvVars": "http_proxy https_proxy",
		"__darwinAllowLocalNetworking": "1", "__sandboxProfile": "(profile)",
		"requiredSystemFeatures": "kvm uid-range recursive-nix kvm", "preferLocalBuild": "1", "allowSubstitutes": "",
	})
	if err != nil {
		t.Fatal(err)
	}
	structured, err := options(t, map[string]string{"__json": `{
		"outputChecks": {"out": {"allowedReferences": ["out", "` + objectA + `"], "allowedRequisites": [],
			"disallowedReferences": ["` + objectB + `", "dev"], "disallowedRequisites": ["` + objectA + `/bin"]}},
		"exportReferencesGraph": {"a-b.c": [["` + objectA + `/x"]], "_": "` + objectB + `"},
		"__noChroot": true, "__impureHostDeps": ["/dev/kvm"], "impureEnvVars": ["https_proxy", "http_proxy"],
		"__darwinAllowLocalNetworking": true, "__sandboxProfile": "(profile)",
		"requiredSystemFeatures": ["recursive-nix", "kvm", "uid-range"], "preferLocalBuild": true, "allowSubstitutes": false
	}`})
	if err != nil {
		t.Fatal(err)
	}
	a, b := path(t, objectA), path(t, objectB)
	want := &OutputChecks{
		AllowedReferences:    []CheckRef{{Output: "out"}, {Path: a}},
		AllowedRequisites:    []CheckRef{},
		DisallowedReferences: []CheckRef{{Path: b}, {Output: "dev"}},
		DisallowedRequisites: []CheckRef{{Output: objectA + "/bin"}},
	}
	compare := cmp.Comparer(func(a, b storepath.Path) bool { return a == b })
	if diff := cmp.Diff(want, structured.Checks("out"), compare); diff != "" {
		t.Error(diff)
	}
	want.IgnoreSelf = true
	if diff := cmp.Diff(want, plain.Checks("anything"), compare); diff != "" {
		t.Error(diff)
	}
	if structured.Checks("dev") != nil || !plain.UIDRange() || !plain.RecursiveNix() || !slices.Equal(plain.PassAsFile, []string{"a", "b"}) {
		t.Errorf("%+v, %+v", plain, structured)
	}
	// What is left is the same.
	plain.AllChecks, plain.PassAsFile, structured.OutputChecks, structured.Structured = nil, nil, nil, nil
	if diff := cmp.Diff(plain, structured, compare); diff != "" {
		t.Error(diff)
	}
	if got := plain.SystemFeatures(Floating); !slices.Equal(got, []string{"ca-derivations", "kvm", "recursive-nix", "uid-range"}) {
		t.Errorf("%q", got)
	}
	if got := plain.SystemFeatures(Fixed); !slices.Equal(got, []string{"kvm", "recursive-nix", "uid-range"}) {
		t.Errorf("%q", got)
	}
}

func TestStructuredOnly(t *testing.T) {
	o, err := options(t, map[string]string{"passAsFile": "a", "__json": `{
		"unsafeDiscardReferences": {"out": true, "dev": false},
		"outputChecks": {"out": {"maxSize": 18446744073709551615, "maxClosureSize": 1e3}, "dev": {"maxSize": -1}},
		"allowedReferences": [], "maxSize": 1, "exportReferencesGraph": ["ignored"]}`})
	if err != nil {
		t.Fatal(err)
	}
	if !o.UnsafeDiscardReferences["out"] || o.UnsafeDiscardReferences["dev"] || len(o.PassAsFile) > 0 {
		t.Errorf("%+v", o)
	}
	if c := o.Checks("out"); *c.MaxSize != 1<<64-1 || *c.MaxClosureSize != 1000 || *o.Checks("dev").MaxSize != 1<<64-1 {
		t.Errorf("%+v", c)
	}
	if len(o.Warnings) != 4 || !strings.Contains(o.Warnings[0], "'allowedReferences'; use 'outputChecks' instead") {
		t.Errorf("%q", o.Warnings)
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"exportReferencesGraph", "a", "odd number of tokens in 'exportReferencesGraph': 'a'"},
		{"exportReferencesGraph", "a/b " + objectA, "invalid file name 'a/b' in 'exportReferencesGraph'"},
		{"exportReferencesGraph", "a /etc/passwd", "path '/etc/passwd' is not in the Nix store"},
		{"__json", `{"requiredSystemFeatures": "kvm"}`, `while parsing attribute "requiredSystemFeatures": Expected JSON value to be of type 'array' but it is of type 'string': "kvm"`},
		{"__json", `{"impureEnvVars": [1]}`, `Expected JSON value to be of type 'string' but it is of type 'number': 1`},
		{"__json", `{"preferLocalBuild": "1"}`, `while parsing attribute "preferLocalBuild": Expected JSON value to be of type 'boolean'`},
		{"__json", `{"__sandboxProfile": null}`, `of type 'null': null`},
		{"__json", `{"outputChecks": []}`, "Expected JSON value to be of type 'object' but it is of type 'array': []"},
		{"__json", `{"outputChecks": {"out": 1}}`, "'object' but it is of type 'number'"},
		{"__json", `{"outputChecks": {"out": {"allowedReferences": {}}}}`, `while parsing attribute 'outputChecks."out".allowedReferences'`},
		{"__json", `{"outputChecks": {"out": {"maxSize": "1"}}}`, "'number' but it is of type 'string'"},
		{"__json", `{"outputChecks": {"out": {"maxSize": 1e99}}}`, "is no number of bytes"},
		{"__json", `{"unsafeDiscardReferences": {"out": 1}}`, "while parsing attribute 'unsafeDiscardReferences': Expected"},
		{"__json", `{"exportReferencesGraph": {"a": 1}}`, "'exportReferencesGraph' value is not an array or a string"},
		{"__json", `{"exportReferencesGraph": {"a": "` + OutputPlaceholder("out") + `"}}`, "is not in the Nix store"},
		{"__json", `[]`, "cannot process __json attribute"},
		{"__json", "{\"a\": \"\xff\"}", "cannot process __json attribute: it is not UTF-8"},
	} {
		if o, err := options(t, map[string]string{c.name: c.value}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %s: %+v, %v", c.name, c.value, o, err)
		}
	}
}

// What is not built yet stands for itself.
func TestOptionsBeforeResolution(t *testing.T) {
	drv := path(t, "/nix/store/00000000000000000000000000000002-in.drv")
	ph, err := UnknownOutput(drv, "out")
	if err != nil {
		t.Fatal(err)
	}
	inner := ph.Output("lib").String()
	d := &Derivation{Basic: Basic{Name: "x", Env: map[string]string{
		"allowedReferences": ph.String(), "exportReferencesGraph": "a " + ph.String() + " b " + inner + " c " + objectA,
	}}, InputDrvs: map[storepath.Path]InputNode{drv: {Outputs: []string{"out"}, Dynamic: map[string]InputNode{"out": {Outputs: []string{"lib"}}}}}}
	o, err := d.Options(storepath.DefaultDir)
	if err != nil || len(o.ExportReferencesGraph["a"]) != 0 || len(o.ExportReferencesGraph["b"]) != 0 || len(o.ExportReferencesGraph["c"]) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := d.Basic.Options(storepath.DefaultDir); err == nil {
		t.Error("a placeholder was taken for a path")
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("__json", `{"outputChecks":{"out":{"maxSize":1,"allowedReferences":["out"]}},"exportReferencesGraph":{"a":["`+objectA+`"]},"x":[1,2.5,null,true,{"y":"z'"}]}`)
	f.Add("exportReferencesGraph", "a "+objectA)
	f.Add("allowedRequisites", "out "+objectA)
	f.Fuzz(func(t *testing.T, name, value string) {
		b := &Basic{Name: "x", Env: map[string]string{name: value}}
		o, err := b.Options(storepath.DefaultDir)
		if err != nil {
			return
		}
		if !slices.IsSorted(o.RequiredSystemFeatures) || !slices.IsSorted(o.PassAsFile) {
			t.Errorf("%+v is not sorted", o)
		}
		if o.Structured == nil {
			return
		}
		text, err := o.Structured.JSON()
		if err != nil {
			return // nested too deep
		}
		again, err := ParseStructuredAttrs(string(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if twice, err := again.JSON(); err != nil || string(twice) != string(text) {
			t.Fatalf("%s became %s, %v", text, twice, err)
		}
		if s := string(o.Structured.Shell()); !bashWords(s) {
			t.Fatalf("%q would not be declarations", s)
		}
	})
}

// bashWords tells whether a text is nothing but declarations of constants.
func bashWords(s string) bool {
	quoted, begins := false, true
	for i := 0; i < len(s); i++ {
		if begins && !strings.HasPrefix(s[i:], "declare ") {
			return false
		}
		begins = false
		switch c := s[i]; {
		case c == '\'':
			quoted = !quoted
		case quoted:
		case c == '\\':
			i++ // a quoted quote
		case c == '\n':
			begins = true
		case strings.IndexByte("$`;&|<>\"", c) >= 0:
			return false
		}
	}
	return !quoted && (begins || s == "")
}

func TestShell(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{`"a b"`, "declare v='a b'\n"},
		{`"it's"`, `declare v='it'\''s'` + "\n"},
		{`"$(x)\n"`, "declare v='$(x)\n'\n"},
		{`null`, "declare v=''\n"},
		{`true`, "declare v=1\n"},
		{`false`, "declare v=\n"},
		{`12`, "declare v=12\n"},
		{`-12`, "declare v=-12\n"},
		{`4294967297`, "declare v=1\n"},
		{`3000000000`, "declare v=-1294967296\n"},
		{`18446744073709551615`, "declare v=-1\n"},
		{`2.0`, "declare v=2\n"},
		{`2.5`, ""},
		{`0.99999999999`, "declare v=0\n"},
		{`16777216.5`, "declare v=16777216\n"},
		{`1e12`, "declare v=-2147483648\n"},
		{`-1e12`, "declare v=-2147483648\n"},
		{`[]`, "declare -a v=()\n"},
		{`["a", 1, null, false]`, "declare -a v=('a' 1 ''  )\n"},
		{`[[]]`, ""},
		{`[1.5]`, ""},
		{`{}`, "declare -A v=()\n"},
		{`{"b c": true, "a'": "x"}`, `declare -A v=(['a'\''']='x' ['b c']=1 )` + "\n"},
		{`{"a": {}}`, ""},
	} {
		a, err := ParseStructuredAttrs(`{"v":` + c.value + `,"0":1,"a-b":1,"":1,"é":1,"a.b":2}`)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(a.Shell()); got != c.want {
			t.Errorf("%s: %q, want %q", c.value, got, c.want)
		}
	}
}

// One key after the other, so that what was put in may be replaced in its turn.
func TestRewrite(t *testing.T) {
	got := Rewrite("/placeholder and hash-x, hash-x", map[string]string{"hash": "HASH", "/placeholder": "/nix/store/hash-y", "": "no"})
	if got != "/nix/store/HASH-y and HASH-x, HASH-x" {
		t.Errorf("%q", got)
	}
	if got := Rewrite("aaa", map[string]string{"a": "aa"}); got != "aaaaaa" {
		t.Errorf("%q", got)
	}
}
