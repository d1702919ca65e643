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
