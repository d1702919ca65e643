package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// An object with a signed index in object storage: what is read of it comes by ranges, and so does what a profile names and
// what is missing when all of it is fetched. Its files have names of any bytes.
func TestPartsOverS3(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.FUSE(t)
	s3 := testenv.S3Server(t)
	s3.Bucket(t, "cache")
	w := &lazyWorld{t: t, dir: testenv.Scratch(t)}
	inMemory(t, w.path("store"))
	inMemory(t, w.path("cache"))
	w.corpus = w.path("store/nix/store")
	random := rand.New(rand.NewPCG(1, 1))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	large := noise(20 << 20)
	files := map[string][]byte{"object/large": large, "object/small": []byte("small"), "object/last": noise(3 << 20)}
	for c := range 256 {
		if c != 0 && c != '/' {
			files["object/any/x"+string([]byte{byte(c)})+"y"] = []byte{byte(c)}
		}
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.path(name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range s3.Environ() {
		t.Setenv(name, value)
	}
	t.Setenv("XDG_CACHE_HOME", w.path("xdg"))
	secret := w.path("secret")
	if err := os.WriteFile(secret, []byte(w.run("key", "generate", "test-1")), 0o600); err != nil {
		t.Fatal(err)
	}
	public := w.command("key", "public")
	public.Stdin = strings.NewReader(readText(t, secret))
	key, err := public.Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_CONFIG", "trusted-public-keys = "+string(key))
	source := "local?root=" + w.path("store")
	path := strings.TrimSpace(w.run("add", "--store", source, w.path("object")))
	where := url.Values{"endpoint": {strings.TrimPrefix(s3.Endpoint, "http://")}, "scheme": {"http"}, "region": {s3.Region}}
	uri := func() string { return "s3://cache?" + where.Encode() }
	from := uri()
	where.Set("secret-key", secret)
	w.run("push", "--lazy", "--store", source, uri(), path)

	at, object := w.path("mnt"), filepath.Base(path)
	w.mountFrom(at, nil, from)
	if got := readText(t, filepath.Join(at, object, "small")); got != "small" {
		t.Errorf("%q", got)
	}
	f, err := os.Open(filepath.Join(at, object, "large"))
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100_000)
	if _, err := f.ReadAt(p, 10<<20); err != nil || !bytes.Equal(p, large[10<<20:10<<20+len(p)]) {
		t.Errorf("%v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	come := func() int64 {
		var all []struct {
			Serving struct {
				Counts struct{ Bytes int64 }
			}
		}
		if err := json.Unmarshal([]byte(w.run("lazy", "status", "--json")), &all); err != nil || len(all) != 1 {
			t.Fatalf("%v, %+v", err, all)
		}
		return all[0].Serving.Counts.Bytes
	}
	if n := come(); n < 100_000 || n > 3<<20 {
		t.Errorf("%d bytes came for two small reads", n)
	}
	profile := w.path("profile")
	if err := os.WriteFile(profile, fmt.Appendf(nil, "strata-profile 1\n%s\n%s \"last\"\n", object, object), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := w.run("lazy", "prefetch", "--profile", profile); !strings.Contains(out, "1 files are wanted, 3.") {
		t.Errorf("%q", out)
	}
	before := come()
	if got := readText(t, filepath.Join(at, object, "last")); got != string(files["object/last"]) {
		t.Error("it has other contents")
	}
	if n := come(); n > before+1<<20 { // guesses may have been on their way
		t.Errorf("%d bytes came for what had been fetched", n-before)
	}
	if out := w.run("lazy", "prefetch", filepath.Join(at, object)); out != "1 objects are here\n" {
		t.Errorf("%q", out)
	}
	w.same(at, object)
	if n := come(); n > before+1<<20 { // guesses may have been on their way
		t.Errorf("%d bytes came for what had been fetched", n-before)
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
