package store

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
)

func TestParseReference(t *testing.T) {
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	type params = map[string][]string
	for _, c := range []struct {
		text      string
		want      Reference
		canonical string // "": the same text
	}{
		{"", Reference{"auto", "", params{}}, "auto"},
		{"auto", Reference{"auto", "", params{}}, ""},
		{"auto?state=/s", Reference{"auto", "", params{"state": {"/s"}}}, ""},
		{"daemon", Reference{"unix", "", params{}}, "unix://"},
		{"daemon?root=/r", Reference{"unix", "", params{"root": {"/r"}}}, "unix://?root=/r"},
		{"unix:///run/a%20b?root=/r", Reference{"unix", "/run/a b", params{"root": {"/r"}}}, ""},
		{"local", Reference{"local", "", params{}}, ""},
		{"local://?root=/r", Reference{"local", "", params{"root": {"/r"}}}, "local?root=/r"},
		{"local:///r", Reference{"local", "/r", params{}}, ""},
		{"/r?real=/x", Reference{"local", "", params{"root": {"/r"}, "real": {"/x"}}}, "local?real=/x&root=/r"},
		{"/r/../s/", Reference{"local", "", params{"root": {"/s"}}}, "local?root=/s"},
		{"./r", Reference{"local", "", params{"root": {here + "/r"}}}, "local?root=" + here + "/r"},
		{"a/b", Reference{"local", "", params{"root": {here + "/a/b"}}}, "local?root=" + here + "/a/b"},
		{".", Reference{"local", "", params{"root": {here}}}, "local?root=" + here},
		{"local-overlay", Reference{"local-overlay", "", params{}}, "local-overlay://"},
		{"local-overlay://?lower-store=%2Fa%3Fx=1&lower-store=daemon", Reference{"local-overlay", "", params{"lower-store": {"/a?x=1", "daemon"}}},
			"local-overlay://?lower-store=/a%3Fx%3D1&lower-store=daemon"},
		{"https://cache.example.org:8080/dir?priority=10", Reference{"https", "cache.example.org:8080/dir", params{"priority": {"10"}}}, ""},
		{"s3://bucket?a=1+2%2B3%26", Reference{"s3", "bucket", params{"a": {"1+2+3&"}}}, "s3://bucket?a=1%2B2%2B3%26"},
		{"ssh-ng://me@host?", Reference{"ssh-ng", "me@host", params{}}, "ssh-ng://me@host"},
	} {
		r, err := ParseReference(c.text)
		if err != nil || !reflect.DeepEqual(r, c.want) {
			t.Errorf("%q: %#v, %v; want %#v", c.text, r, err, c.want)
			continue
		}
		canonical := c.canonical
		if canonical == "" {
			canonical = c.text
		}
		if s := r.String(); s != canonical {
			t.Errorf("%q prints as %q, want %q", c.text, s, canonical)
		}
	}
	for _, bad := range []string{
		"nonsense", "Local", "local?root", "local?%zz=1", "local?a=%", "unix://%", "/r?root=/s", "9p://x", "A://b", "://x", "unix:path",
	} {
		if r, err := ParseReference(bad); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %#v, %v", bad, r, err)
		}
	}
}

func TestParamIsTheLast(t *testing.T) {
	r, err := ParseReference("local?a=1&a=2")
	if err != nil || r.Param("a") != "2" || r.Param("b") != "" {
		t.Errorf("%+v, %v", r, err)
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"auto", "local?root=/a%20b", "unix:///run/sock?a=1&a=2", "/r?x=%26", "local-overlay://?lower-store=local%3Froot=/x", "a/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			if !errors.Is(err, ErrReference) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if again, err := ParseReference(r.String()); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%q: %#v prints as %q, which is %#v, %v", s, r, r.String(), again, err)
		}
	})
}
