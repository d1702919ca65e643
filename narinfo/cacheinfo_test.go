package narinfo

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestParseCacheInfo(t *testing.T) {
	for text, want := range map[string]CacheInfo{
		"":                         {},
		"StoreDir: /nix/store\n":   {Dir: "/nix/store"},
		"StoreDir: /nix/store":     {Dir: "/nix/store"},
		"StoreDir:/nix/store/\r\n": {Dir: "/nix/store"},
		"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n": {Dir: "/nix/store", WantMassQuery: true, Priority: 40},
		"WantMassQuery: 0\nPriority: -3\n":                       {Priority: -3},
		"WantMassQuery: yes\n":                                   {},
		"no colon\n\nFuture: x: y\nPriority: 1\nPriority: 2\n":   {Priority: 2},
	} {
		if got, err := ParseCacheInfo("x", []byte(text)); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, why := range map[string]string{
		"StoreDir: nix/store\n":             "line 1",
		"\nStoreDir: /\n":                   "line 2",
		"StoreDir:\n":                       "line 1",
		"Priority: high\n":                  "'high' is not a number",
		"Priority: 99999999999999999999":    "is not a number",
		strings.Repeat("x", MaxCacheInfo+1): "has more than",
	} {
		_, err := ParseCacheInfo("nix-cache-info", []byte(text))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "binary cache info file 'nix-cache-info'") {
			t.Errorf("%.40q: %v, want %q", text, err, why)
		}
	}
}

func TestCacheInfoText(t *testing.T) {
	for want, i := range map[string]CacheInfo{
		"":                       {},
		"StoreDir: /nix/store\n": {Dir: "/nix/store"}, // what stock Nix writes
		"StoreDir: /a/b\nWantMassQuery: 1\nPriority: 30\n": {Dir: "/a/b", WantMassQuery: true, Priority: 30},
	} {
		if got := string(i.Text()); got != want {
			t.Errorf("%+v: %q, want %q", i, got, want)
		}
	}
}

func FuzzCacheInfo(f *testing.F) {
	f.Add([]byte("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		i, err := ParseCacheInfo("x", text)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := ParseCacheInfo("x", i.Text())
		if err != nil || again != i || !bytes.Equal(again.Text(), i.Text()) {
			t.Fatalf("%+v prints as %q, which is %+v, %v", i, i.Text(), again, err)
		}
	})
}
