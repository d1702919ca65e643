package canonjson

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAppendString(t *testing.T) {
	for in, want := range map[string]string{
		"":                         `""`,
		"plain é \u2028 <&> \x7f":  "\"plain é \u2028 <&> \x7f\"",
		"q\" b\\ n\n r\r t\t":      `"q\" b\\ n\n r\r t\t"`,
		"\b\f\x00\x1f":             `"\b\f\u0000\u001f"`,
		"\"":                       `"\""`,
		"ends with a backslash \\": `"ends with a backslash \\"`,
	} {
		got := AppendString(nil, in)
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		var back string
		if err := json.Unmarshal(got, &back); err != nil || back != in {
			t.Errorf("%q comes back as %q, %v", in, back, err)
		}
	}
}

func TestCanonicalise(t *testing.T) {
	for in, want := range map[string]string{
		`{}`: `{}`,
		` { "b" : [ 1 , 2.50 , true ], "a":{"z":null,"y":false} } `: `{"a":{"y":false,"z":null},"b":[1,2.50,true]}`,
		`{"a":1,"a":2}`:                `{"a":2}`,
		`{"u":"\u00e9\u2028\/\u001b"}`: "{\"u\":\"é\u2028/\\u001b\"}",
		`{"B":0,"a":0,"Z":0}`:          `{"B":0,"Z":0,"a":0}`,
	} {
		got, err := Canonicalise([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "null", "[]", `"x"`, `{`, `{}{}`, `{} x`, `{"a":` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + `}`} {
		if got, err := Canonicalise([]byte(in)); err == nil {
			t.Errorf("%.40s: %s, want an error", in, got)
		}
	}
	if Valid("a\xff") == nil || Valid("é") != nil {
		t.Error("Valid")
	}
}
