package derivation

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const minimalJSON = `{"args":[],"builder":"/b","env":{},"inputs":{"drvs":{},"srcs":[]},"name":"x","outputs":{"out":{}},"system":"s","version":4}`

func TestJSONErrors(t *testing.T) {
	var d Derivation
	if err := json.Unmarshal([]byte(minimalJSON), &d); err != nil {
		t.Fatal(err)
	}
	if got, err := d.MarshalJSON(); err != nil || string(got) != minimalJSON {
		t.Errorf("%s, %v", got, err)
	}
	for name, c := range map[string]struct{ old, new, why string }{
		"another version":     {`"version":4`, `"version":3`, "only version 4"},
		"no version":          {`,"version":4`, ``, "only version 4"},
		"no name":             {`"name":"x",`, ``, "no 'name'"},
		"no sources":          {`,"srcs":[]`, ``, "no 'inputs.srcs'"},
		"source in full":      {`"srcs":[]`, `"srcs":["` + aPath + `"]`, "inputs.srcs"},
		"node without parts":  {`"drvs":{}`, `"drvs":{"00000000000000000000000000000000-a.drv":{"outputs":[]}}`, "dynamicOutputs"},
		"output null":         {`{"out":{}}`, `{"out":null}`, "no object"},
		"unknown in output":   {`{"out":{}}`, `{"out":{"colour":1}}`, `unknown member "colour"`},
		"parts do not fit":    {`{"out":{}}`, `{"out":{"path":"00000000000000000000000000000000-a","method":"nar"}}`, "invalid JSON for derivation output"},
		"bad method":          {`{"out":{}}`, `{"out":{"method":"tar","hashAlgo":"sha256"}}`, "method"},
		"__json in env":       {`"env":{}`, `"env":{"__json":"{}"}`, "Cannot have an environment variable named '__json'"},
		"attrs not an object": {`"system"`, `"structuredAttrs":[],"system"`, "structuredAttrs"},
		"not UTF-8 escaped":   {`"name":"x"`, `"name":"\u00e9"`, "illegal character"},
		"number for string":   {`"builder":"/b"`, `"builder":1`, "builder"},
		"nested deeply":       {`"drvs":{}`, `"drvs":{"00000000000000000000000000000000-a.drv":` + strings.Repeat(`{"outputs":[],"dynamicOutputs":{"o":`, 100) + `{"outputs":[],"dynamicOutputs":{}}` + strings.Repeat("}}", 100) + "}", "nested more than 32 deep"},
	} {
		text := strings.Replace(minimalJSON, c.old, c.new, 1)
		if text == minimalJSON {
			t.Fatalf("%s: nothing changed", name)
		}
		err := json.Unmarshal([]byte(text), &d)
		if err == nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
	}
	d.Env["x"] = "\xff"
	if _, err := d.MarshalJSON(); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("not UTF-8: %v", err)
	}
}
