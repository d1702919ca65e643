package derivation

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

func FuzzReadBasic(f *testing.F) {
	for _, d := range parsed(f) {
		f.Add(encodeBasic(f, &d.Basic))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ReadBasic(wire.NewReader(bytes.NewReader(data)), storepath.DefaultDir, "x")
		if err != nil {
			return
		}
		sent := encodeBasic(t, b)
		back, err := ReadBasic(wire.NewReader(bytes.NewReader(sent)), storepath.DefaultDir, "x")
		if err != nil {
			t.Fatalf("what was sent cannot be read: %v", err)
		}
		if again := encodeBasic(t, back); !bytes.Equal(again, sent) {
			t.Fatalf("%q\nsent again is\n%q", sent, again)
		}
	})
}

func encodeBasic(t testing.TB, b *Basic) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := wire.NewWriter(&buf)
	if err := WriteBasic(w, storepath.DefaultDir, b); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func FuzzJSON(f *testing.F) {
	for _, d := range parsed(f) {
		data, err := d.MarshalJSON()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var d, back Derivation
		if err := json.Unmarshal(data, &d); err != nil {
			return
		}
		printed, err := d.MarshalJSON()
		if err != nil {
			t.Fatalf("what was read cannot be printed: %v", err)
		}
		if err := json.Unmarshal(printed, &back); err != nil {
			t.Fatalf("what was printed cannot be read: %v\n%s", err, printed)
		}
		if again, err := back.MarshalJSON(); err != nil || !bytes.Equal(again, printed) {
			t.Fatalf("%s\nprinted again is\n%s\n%v", printed, again, err)
		}
	})
}
