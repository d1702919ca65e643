package store

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestRealisationJSON(t *testing.T) {
	const id = "sha256:15e3c560894cbb27085cf65b5a2ecb18488c999497f4531b6907a7581ce6d527!out"
	const path = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"
	const text = `{"dependentRealisations":{"` + id + `":"` + path + `"},"id":"` + id + `","outPath":"` + path + `","signatures":["a:b","c:d"]}`
	var r Realisation
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if r.ID.String() != id || r.OutPath.Base() != path || len(r.Signatures) != 2 || len(r.Dependent) != 1 {
		t.Errorf("parsed as %+v", r)
	}
	out, err := json.Marshal(&r)
	if err != nil || string(out) != text {
		t.Errorf("printed as %s, %v", out, err)
	}
	if out, _ := json.Marshal(&Realisation{ID: r.ID, OutPath: r.OutPath}); !strings.Contains(string(out), `"dependentRealisations":{}`) ||
		!strings.Contains(string(out), `"signatures":[]`) {
		t.Errorf("empty lists printed as %s", out)
	}
	for _, bad := range []string{
		`{}`, `[]`, `null x`, `{"id":"` + id + `"}`, `{"outPath":"` + path + `"}`,
		`{"id":"nonsense","outPath":"` + path + `"}`,
		`{"id":"` + id + `","outPath":"/nix/store/` + path + `"}`,
		`{"id":"` + id + `","outPath":"` + path + `","signatures":["x"]}`,
		`{"id":"` + id + `","outPath":"` + path + `","dependentRealisations":{"` + id + `":"x"}}`,
	} {
		if err := json.Unmarshal([]byte(bad), &r); err == nil {
			t.Errorf("took %s", bad)
		}
	}
}

// What Nix 2.34.8 wrote into a binary cache.
const goldenRealisation = `{"dependentRealisations":{},"id":"sha256:c06a42a96b89bd7788474355f4e0b68db7fd8638ae87bf63aca36f29d8463127!out","outPath":"d58b8m6d4dwxk7ywfh8jhc5zjw2k2s4i-high","signatures":["test.example-1:PZdKpfmWE32uGAteI4uqmxaqud+Q65pTp7mRuw0dAFTU6mBdZOCIzAnCB+NtJnHtNUBOYludssg7o8abvNv5BA=="]}`

func TestRealisationGolden(t *testing.T) {
	var r Realisation
	if err := json.Unmarshal([]byte(goldenRealisation), &r); err != nil {
		t.Fatal(err)
	}
	if out, err := r.MarshalJSON(); err != nil || string(out) != goldenRealisation {
		t.Errorf("%s, %v", out, err)
	}
	want, _, _ := strings.Cut(goldenRealisation, `,"signatures"`)
	if got, err := r.Fingerprint(); err != nil || got != want+"}" {
		t.Errorf("fingerprint %s, %v", got, err)
	}
}

// A key may have a name that encoding/json would escape.
func TestRealisationSignatureNames(t *testing.T) {
	var r Realisation
	if err := json.Unmarshal([]byte(goldenRealisation), &r); err != nil {
		t.Fatal(err)
	}
	r.Signatures = []Signature{"\u2028<&>:AAAA", `"a\b":AAAA`}
	out, err := r.MarshalJSON()
	if err != nil || !strings.HasSuffix(string(out), `"signatures":["\"a\\b\":AAAA","`+"\u2028"+`<&>:AAAA"]}`) {
		t.Errorf("%s, %v", out, err)
	}
	r.Signatures = []Signature{"\xff:AAAA"}
	if out, err := r.MarshalJSON(); err == nil {
		t.Errorf("not UTF-8: %s", out)
	}
	if out, err := (&Realisation{}).MarshalJSON(); err == nil {
		t.Errorf("of nothing: %s", out)
	}
}

func FuzzRealisation(f *testing.F) {
	f.Add([]byte(goldenRealisation))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r, back Realisation
		if json.Unmarshal(text, &r) != nil {
			return
		}
		out, err := r.MarshalJSON()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if err := json.Unmarshal(out, &back); err != nil {
			t.Fatalf("%s cannot be read: %v", out, err)
		}
		if again, err := back.MarshalJSON(); err != nil || string(again) != string(out) {
			t.Fatalf("%s\nagain is\n%s\n%v", out, again, err)
		}
	})
}
