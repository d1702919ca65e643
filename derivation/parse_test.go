package derivation

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

const (
	aPath = "/nix/store/00000000000000000000000000000000-a"
	aDrv  = "/nix/store/00000000000000000000000000000000-a.drv"
)

// simple is a derivation with the parts that a test does not care about.
func simple(outputs, drvs, srcs, env string) string {
	return `Derive([` + outputs + `],[` + drvs + `],[` + srcs + `],"sys","/b",[],[` + env + `])`
}

func TestParseStrings(t *testing.T) {
	text := `Derive([("out","","","")],[],[],"sys","/b",["plain","","\"\\\n\r\t\x\$","caf\é ` + "\xff\x00raw\n" + `"],[("a\"b","c\\"),("",""),("z","\\\"")])`
	d, err := Parse(storepath.DefaultDir, "x", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"plain", "", "\"\\\n\r\tx$", "café \xff\x00raw\n"}
	if fmt.Sprintf("%q", d.Args) != fmt.Sprintf("%q", want) {
		t.Errorf("%q, want %q", d.Args, want)
	}
	if d.Env[`a"b`] != `c\` || d.Env["z"] != `\"` {
		t.Errorf("%q", d.Env)
	}
	again, err := d.ATerm(storepath.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := Parse(storepath.DefaultDir, "x", again); err != nil || fmt.Sprint(back) != fmt.Sprint(d) {
		t.Errorf("comes back as %v, %v", back, err)
	}
}

// Sets may come in any order, and are written in theirs.
func TestParseUnsorted(t *testing.T) {
	b := strings.Replace(aPath, "-a", "-b", 1)
	text := simple(`("out","","",""),("dev","","","")`, `("`+aDrv+`",["out","dev","out"])`, `"`+b+`","`+aPath+`"`, `("z","1"),("a","2")`)
	want := simple(`("dev","","",""),("out","","","")`, `("`+aDrv+`",["dev","out"])`, `"`+aPath+`","`+b+`"`, `("a","2"),("z","1")`)
	d, err := Parse(storepath.DefaultDir, "x", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.ATerm(storepath.DefaultDir); err != nil || string(got) != want {
		t.Errorf("%s, %v\nwant\n%s", got, err, want)
	}
}

func TestParseErrors(t *testing.T) {
	const out = `("out","","","")`
	zeros := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		text   string
		offset int
		why    string
	}{
		"empty":                 {"", 0, "does not start with"},
		"another term":          {"Dx", 0, "does not start with"},
		"cut in the head":       {"Deriv", 0, "expected string 'Derive('"},
		"unknown version":       {`DrvWithVersion("xp-new",[`, 0, "Unknown derivation ATerm format version 'xp-new'"},
		"no list":               {`Derive("out"`, 7, "expected string '['"},
		"unterminated":          {`Derive([("out`, 9, "unterminated string"},
		"escape at the end":     {`Derive([("out\`, 9, "unterminated string"},
		"escaped quote":         {`Derive([("out\"`, 9, "unterminated string"},
		"trailing comma":        {simple(out+",", "", "", ""), 25, "expected string '('"},
		"no comma":              {simple(out+out, "", "", ""), 24, "expected string ']'"},
		"leading comma":         {simple(","+out, "", "", ""), 8, "expected string '('"},
		"output twice":          {simple(out+","+out, "", "", ""), 25, "output 'out' comes twice"},
		"output name":           {simple(`("o/t","","","")`, "", "", ""), 8, "illegal character"},
		"relative output":       {simple(`("out","a","","")`, "", "", ""), 8, "is not in the Nix store"},
		"foreign output":        {simple(`("out","/gnu/store/00000000000000000000000000000000-a","","")`, "", "", ""), 8, "is not in the Nix store"},
		"hash without algo":     {simple(`("out","","","`+zeros+`")`, "", "", ""), 8, "no hash algorithm"},
		"unknown algo":          {simple(`("out","","sha3","`+zeros+`")`, "", "", ""), 8, "unknown hash algorithm"},
		"short hash":            {simple(`("out","`+aPath+`","sha256","00")`, "", "", ""), 8, "wrong length"},
		"fixed elsewhere":       {simple(`("out","`+aPath+`","sha256","`+zeros+`")`, "", "", ""), 8, "fixed output has path '" + aPath + "', should be"},
		"floating with path":    {simple(`("out","`+aPath+`","r:sha256","")`, "", "", ""), 8, "should not specify output path"},
		"impure with path":      {simple(`("out","`+aPath+`","r:sha256","impure")`, "", "", ""), 8, "should not specify output path"},
		"text must be sha256":   {simple(`("out","`+aPath+`","text:sha1","`+zeros[:40]+`")`, "", "", ""), 8, "sha256"},
		"source is no path":     {simple(out, "", `"x"`, ""), 30, "bad path"},
		"input is no path":      {simple(out, `("`+aDrv+`/bin",["out"])`, "", ""), 28, "bad path"},
		"input twice":           {simple(out, `("`+aDrv+`",["out"]),("`+aDrv+`",["dev"])`, "", ""), 89, "comes twice"},
		"input output name":     {simple(out, `("`+aDrv+`",[""])`, "", ""), 81, "name of an output"},
		"dynamic in old form":   {simple(out, `("`+aDrv+`",(["out"],[("out",["dev"])]))`, "", ""), 80, "expected string '['"},
		"variable twice":        {simple(out, "", "", `("a","1"),("a","2")`), 57, "environment variable 'a' comes twice"},
		"something at the end":  {simple(out, "", "", "") + "\n", 49, "follows the end"},
		"cut before the end":    {strings.TrimSuffix(simple(out, "", "", ""), ")"), 48, "expected string ')'"},
		"dynamic nested deeply": {`DrvWithVersion("xp-dyn-drv",[` + out + `],[("` + aDrv + `",` + strings.Repeat(`([],[("o",`, 40), 422, "nested more than 32 deep"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Parse(storepath.DefaultDir, "x", []byte(c.text))
			var s *SyntaxError
			if !errors.As(err, &s) || !errors.Is(err, ErrFormat) {
				t.Fatalf("%v, %v; want a SyntaxError", d, err)
			}
			if s.Offset != c.offset || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v\nwant byte %d and %q", err, c.offset, c.why)
			}
		})
	}
}

func TestParseInvalid(t *testing.T) {
	const out = `("out","","","")`
	for name, text := range map[string]string{
		"platform":         strings.Replace(simple(out, "", "", ""), `"sys"`, `"s\",\"/evil"`, 1),
		"attrs not JSON":   simple(out, "", "", `("__json","{")`),
		"attrs not object": simple(out, "", "", `("__json","[1]")`),
	} {
		if _, err := Parse(storepath.DefaultDir, "x", []byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := Parse(storepath.DefaultDir, "no/name", []byte(simple(out, "", "", ""))); !errors.Is(err, ErrInvalid) {
		t.Errorf("name: %v, want ErrInvalid", err)
	}
}

func TestKindFaults(t *testing.T) {
	h := nixhash.Of(nixhash.SHA256, "")
	fixed := Output{Kind: Fixed, CA: storepath.ContentAddress{Method: storepath.Flat, Hash: h}}
	floating := func(a nixhash.Algorithm) Output {
		return Output{Kind: Floating, Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: a}}
	}
	for why, outputs := range map[string]map[string]Output{
		"must have at least one output":                         {},
		"can't mix derivation output types":                     {"out": {Kind: Deferred}, "dev": {Kind: InputAddressed}},
		"only one fixed output is allowed for now":              {"out": fixed, "dev": fixed},
		"single fixed output must be named \"out\"":             {"dev": fixed},
		"all floating outputs must use the same hash algorithm": {"out": floating(nixhash.SHA256), "dev": floating(nixhash.SHA512)},
	} {
		b := Basic{Name: "x", Outputs: outputs}
		if k, err := b.Kind(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("%v: %d, %v; want %q", outputs, k, err, why)
		}
	}
}

// A text that claims much must not cost more than it is long.
func TestParseMemory(t *testing.T) {
	deep := []byte(`DrvWithVersion("xp-dyn-drv",[("out","","","")],[("` + aDrv + `",` + strings.Repeat(`([],[("o",`, 1<<20))
	long := []byte(`Derive([("out","","","")],[],[],"","",[` + strings.Repeat(`"",`, maxElements+1))
	for _, text := range [][]byte{deep, long} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Parse(storepath.DefaultDir, "x", text); !errors.Is(err, ErrFormat) {
			t.Errorf("%.40s…: %v", text, err)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 40*uint64(len(text)) {
			t.Errorf("%.40s…: %d bytes allocated for %d", text, used, len(text))
		}
	}
}

func FuzzParseDerivation(f *testing.F) {
	for _, text := range golden(f) {
		f.Add(text)
	}
	f.Add([]byte(simple(`("out","","","")`, "", "", `("__json","{}")`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Parse(storepath.DefaultDir, "x", text)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrInvalid) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		printed, err := d.ATerm(storepath.DefaultDir)
		if err != nil {
			t.Fatalf("cannot print what was parsed: %v", err)
		}
		back, err := Parse(storepath.DefaultDir, "x", printed)
		if err != nil {
			t.Fatalf("cannot parse what was printed: %v\n%s", err, printed)
		}
		if again, err := back.ATerm(storepath.DefaultDir); err != nil || !bytes.Equal(again, printed) {
			t.Fatalf("%s\nprinted again is\n%s\n%v", printed, again, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	_, d := named(b, "lib-1.2")
	text, err := d.ATerm(storepath.DefaultDir)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(storepath.DefaultDir, "lib-1.2", text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkATerm(b *testing.B) {
	_, d := named(b, "lib-1.2")
	b.ReportAllocs()
	for b.Loop() {
		text, err := d.ATerm(storepath.DefaultDir)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(text)))
	}
}
