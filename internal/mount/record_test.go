package mount

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func goodRecord(t testing.TB) Record {
	r, err := NewRecord("/nix/store", "overlay", ID{Mount: 101, Unique: 2147495652, Device: Device{0, 40}})
	if err != nil {
		t.Fatal(err)
	}
	r.Source, r.Lowers, r.Upper, r.Work = "overlay", []string{"/a", "/b"}, "/u", "/w"
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	want := goodRecord(t)
	want.Upper, want.Work, want.Lowers[1] = "/not\xffutf8", "base64:x", "/new\nline"
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadRecordsAreRefusedByField(t *testing.T) {
	for field, spoil := range map[string]func(*Record){
		"version":  func(r *Record) { r.Version = 2 },
		"target":   func(r *Record) { r.Target = "nix/store" },
		"mount-id": func(r *Record) { r.MountID = 0 },
		"boot-id":  func(r *Record) { r.Boot = "" },
		"device":   func(r *Record) { r.Device = "0" },
	} {
		r := goodRecord(t)
		spoil(&r)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var re *RecordError
		if _, err := ParseRecord(data); !errors.As(err, &re) || re.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, text := range []string{"", "{", "[]", `{"version":"1"}`, "null"} {
		var re *RecordError
		if _, err := ParseRecord([]byte(text)); !errors.As(err, &re) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseRecord(make([]byte, MaxRecord+1)); err == nil {
		t.Error("too large a record is accepted")
	}
}

func TestRecordOfNothingIsGone(t *testing.T) {
	r := goodRecord(t)
	r.Target = t.TempDir()
	if state, err := r.Recognise(); state != Gone {
		t.Errorf("%v %v", state, err)
	}
	if err := Unmount(t.Context(), r, true); !errors.Is(err, ErrNotMounted) {
		t.Error(err)
	}
}

func FuzzParseRecord(f *testing.F) {
	data, err := json.Marshal(goodRecord(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"target":"/","mount-id":1,"boot-id":"x","device":"0:0"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		var re *RecordError
		if err != nil {
			if !errors.As(err, &re) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			return // a time that JSON cannot hold
		}
		if _, err := ParseRecord(again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}
