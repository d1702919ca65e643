package sandbox

import (
	"reflect"
	"testing"
	"time"
)

// values are one of each type that goes between stages, with every field set.
func values() []packed {
	return []packed{
		&keeperSpec{
			Isolation: &Isolation{
				Mounts: []Mount{
					{Kind: Own, Source: "/s", Target: "/nix/store"},
					{Kind: File, Target: "/f", Data: []byte("\x00\xff"), Mode: 0o640, Optional: true, Size: "5k"},
				},
				Network: true, KVM: true, DevShmSize: "50%",
			},
			Bwrap: "/usr/bin/bwrap", HasUser: true, Exclusive: true, UID: 1 << 31, GID: 7, Groups: []uint32{1, 1<<32 - 1},
			Count: 65536, Privileged: true, KeepGroups: true, HasCgroup: true,
		},
		&builderSpec{
			Path: "/bin/sh", Dir: "/build", Args: []string{"sh", ""}, Env: []string{"a=\xff\x00\n"},
			Range: true, Persona: 0x0040000, Filter: true, NewPrivileges: true,
		},
		&order{Source: "/a\n\xfe", Target: "/b"},
		&event{kind: builderEnded, report: report{Step: "s", Text: "t", Errno: 2, Exec: true}, ending: ending{Status: 9, User: time.Second, System: 1}},
	}
}

func TestPack(t *testing.T) {
	for _, v := range values() {
		rv := reflect.ValueOf(v).Elem()
		for i := range rv.NumField() {
			if rv.Field(i).IsZero() {
				t.Errorf("%T: no value for %s", v, rv.Type().Field(i).Name)
			}
		}
		b := packUp(v)
		got := reflect.New(reflect.TypeOf(v).Elem()).Interface().(packed)
		if err := unpack(b, got); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%+v became %+v, %v", v, got, err)
		}
		for n := range b {
			if unpack(b[:n], reflect.New(reflect.TypeOf(v).Elem()).Interface().(packed)) == nil {
				t.Errorf("%T: %d bytes of %d are taken for all", v, n, len(b))
			}
		}
	}
}

func FuzzUnpack(f *testing.F) {
	for i, v := range values() {
		f.Add(uint8(i), packUp(v))
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		v := values()[int(kind)%len(values())]
		if unpack(b, v) != nil {
			return
		}
		again := packUp(v)
		other := values()[int(kind)%len(values())]
		if err := unpack(again, other); err != nil || !reflect.DeepEqual(v, other) {
			t.Errorf("%+v became %+v, %v", v, other, err)
		}
	})
}
