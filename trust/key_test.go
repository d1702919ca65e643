package trust

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

const dir = storepath.DefaultDir

// A key that Nix 2.34.8 generated, and what it signed with it.
const (
	stockSecret = "test.example-1:eWFIboOrPRl2suaiQXiUhg8QNn/t3fMiysbdhWYwhcPAObcIO2/rF3KJWpHoyJt4XGkWqiyfESn9gjm1V+Yk6g=="
	stockPublic = "test.example-1:wDm3CDtv6xdyiVqR6MibeFxpFqosnxEp/YI5tVfmJOo="
	stockSig    = "test.example-1:gF2AzeMfCXCERV4WCLzVIemg02NEnU8wrmueg9DXLPVy8YOEwy0cdXrrxcL1kpuFcsZ5WEABIZFujTeBLxsGCw=="
	stockReal   = `{"dependentRealisations":{},"id":"sha256:c06a42a96b89bd7788474355f4e0b68db7fd8638ae87bf63aca36f29d8463127!out","outPath":"d58b8m6d4dwxk7ywfh8jhc5zjw2k2s4i-high","signatures":["test.example-1:PZdKpfmWE32uGAteI4uqmxaqud+Q65pTp7mRuw0dAFTU6mBdZOCIzAnCB+NtJnHtNUBOYludssg7o8abvNv5BA=="]}`
)

func stockInfo(t testing.TB) *store.PathInfo {
	t.Helper()
	path := func(s string) storepath.Path {
		p, err := storepath.ParseBase(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	hash, err := nixhash.Parse("sha256:0gs6wg3arwwwzxfpcr55nc95gsl30nwi1n5qxcgyz3bgdlivgiyg")
	if err != nil {
		t.Fatal(err)
	}
	return &store.PathInfo{Path: path("d58b8m6d4dwxk7ywfh8jhc5zjw2k2s4i-high"), NarHash: hash, NarSize: 160,
		References: []storepath.Path{path("cpxi3isn0vfsnhkwxssxwsrnk66nmhgs-low")}, Signatures: []store.Signature{stockSig}}
}

func keys(t testing.TB, texts ...string) Keys {
	t.Helper()
	k, err := ParseKeys(texts)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func generate(t testing.TB, name string) SecretKey {
	t.Helper()
	k, err := GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestStockKey(t *testing.T) {
	s, err := ParseSecretKey(stockSecret + "\n")
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePublicKey(stockPublic)
	if err != nil {
		t.Fatal(err)
	}
	if s.Text() != stockSecret || p.String() != stockPublic || s.Public() != p || s.Name() != "test.example-1" || p.Name() != s.Name() {
		t.Errorf("%s and %s do not come back", s, p)
	}
	info := stockInfo(t)
	if n := keys(t, stockPublic).CountValid(info, dir); n != 1 {
		t.Errorf("stock signature of a path: %d valid", n)
	}
	info.Signatures = nil
	if err := Sign(info, dir, s); err != nil || len(info.Signatures) != 1 || info.Signatures[0] != stockSig {
		t.Errorf("signed: %q, %v", info.Signatures, err)
	}
	var r store.Realisation
	if err := json.Unmarshal([]byte(stockReal), &r); err != nil {
		t.Fatal(err)
	}
	if n := keys(t, stockPublic).CountValidRealisation(&r); n != 1 {
		t.Errorf("stock signature of a realisation: %d valid", n)
	}
	r.Signatures = nil
	if err := SignRealisation(&r, s); err != nil {
		t.Fatal(err)
	}
	if out, err := r.MarshalJSON(); err != nil || string(out) != stockReal {
		t.Errorf("%s, %v", out, err)
	}
}

func TestTampering(t *testing.T) {
	k := keys(t, stockPublic)
	for name, spoil := range map[string]func(*store.PathInfo){
		"size":       func(i *store.PathInfo) { i.NarSize++ },
		"no size":    func(i *store.PathInfo) { i.NarSize = 0 },
		"hash":       func(i *store.PathInfo) { i.NarHash = nixhash.Of(nixhash.SHA256, "") },
		"no hash":    func(i *store.PathInfo) { i.NarHash = nixhash.Hash{} },
		"references": func(i *store.PathInfo) { i.References = nil },
		"path":       func(i *store.PathInfo) { i.Path = i.References[0] },
		"key name":   func(i *store.PathInfo) { i.Signatures[0] = "x" + i.Signatures[0] },
		"cut":        func(i *store.PathInfo) { i.Signatures[0] = i.Signatures[0][:60] },
		"longer":     func(i *store.PathInfo) { i.Signatures[0] += "AAAA" },
		"not base64": func(i *store.PathInfo) { i.Signatures[0] = "test.example-1:!" },
		"other key":  func(i *store.PathInfo) { i.Signatures = nil; _ = Sign(i, dir, generate(t, "test.example-1")) },
	} {
		info := stockInfo(t)
		spoil(info)
		if n := k.CountValid(info, dir); n != 0 {
			t.Errorf("%s: %d valid", name, n)
		}
	}
	if n := k.CountValid(stockInfo(t), "/gnu/store"); n != 0 {
		t.Errorf("another store directory: %d valid", n)
	}
	if n := (Keys)(nil).CountValid(stockInfo(t), dir); n != 0 {
		t.Errorf("no keys: %d valid", n)
	}
}

func TestKeys(t *testing.T) {
	a, b, other := generate(t, "a"), generate(t, "b"), generate(t, "a")
	k := keys(t, a.Public().String(), other.Public().String())
	if len(k) != 1 || k["a"] != a.Public() {
		t.Errorf("of two keys of one name: %v", k)
	}
	both := k.With(keys(t, b.Public().String(), other.Public().String()))
	if len(k) != 1 || len(both) != 2 || both["a"] != a.Public() {
		t.Errorf("%v with more is %v", k, both)
	}
	if with := Keys(nil).WithSecret(b, a); fmt.Sprint(with.Strings()) != fmt.Sprint([]string{a.Public().String(), b.Public().String()}) {
		t.Errorf("%q", with.Strings())
	}
	info := stockInfo(t)
	if err := Sign(info, dir, a, b, a); err != nil || len(info.Signatures) != 3 {
		t.Fatalf("%q, %v", info.Signatures, err)
	}
	if n := both.CountValid(info, dir); n != 2 {
		t.Errorf("%d of two keys", n)
	}
	text, err := info.Fingerprint(dir)
	if err != nil || !both.Verify(text, a.Sign(text)) || both.Verify(text, other.Sign(text)) || both.Verify(text, "nobody:AAAA") {
		t.Error("Verify", err)
	}
}

// A signature does not need its padding.
func TestUnpadded(t *testing.T) {
	info := stockInfo(t)
	info.Signatures[0] = store.Signature(strings.TrimRight(stockSig, "="))
	if n := keys(t, strings.TrimRight(stockPublic, "=")).CountValid(info, dir); n != 1 {
		t.Errorf("%d valid", n)
	}
}

// Any number of signatures costs a few checks for each key, and a good one among
// the first is found.
func TestManySignatures(t *testing.T) {
	info := stockInfo(t)
	bad := store.Signature("test.example-1:" + base64.StdEncoding.EncodeToString(make([]byte, 64)))
	info.Signatures = append([]store.Signature{bad, bad}, stockSig)
	if n := keys(t, stockPublic).CountValid(info, dir); n != 1 {
		t.Errorf("%d valid", n)
	}
	info.Signatures = make([]store.Signature, 1<<20)
	for i := range info.Signatures {
		info.Signatures[i] = bad
	}
	if n := keys(t, stockPublic).CountValid(info, dir); n != 0 {
		t.Errorf("%d valid", n)
	}
}

func TestKeyErrors(t *testing.T) {
	secret, public := stockSecret[15:], stockPublic[15:]
	halves := generate(t, "x")
	copy(halves.secret.key[32:], make([]byte, 32))
	for name, text := range map[string]string{
		"empty": "", "no colon": public, "no name": ":" + public, "no key": "a:", "not base64": "a:" + strings.Repeat("!", 44),
		"short": "a:AAAA", "long": "a:" + strings.Repeat("AAAA", 50), "huge": "a:" + strings.Repeat("AAAA", 1<<20),
		"blank in the name": "a b:" + public, "newline": "a\nb:" + public, "newline inside": "a:" + public[:9] + "\n" + public[9:],
		"name not UTF-8": "a\xff:" + public,
	} {
		if k, err := ParsePublicKey(text); !errors.Is(err, ErrKey) {
			t.Errorf("public, %s: %v, %v", name, k, err)
		} else if len(err.Error()) > 600 {
			t.Errorf("public, %s: a message of %d bytes", name, len(err.Error()))
		}
		text = strings.ReplaceAll(text, public, secret)
		if k, err := ParseSecretKey(text); !errors.Is(err, ErrKey) {
			t.Errorf("secret, %s: %v, %v", name, k, err)
		}
	}
	for name, text := range map[string]string{"public as secret": stockPublic, "secret as public": stockSecret, "halves": halves.Text()} {
		if k, err := ParseSecretKey(text); name != "secret as public" && !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v, %v", name, k, err)
		}
		if k, err := ParsePublicKey(text); name != "public as secret" && !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
	if _, err := ParseKeys([]string{stockPublic, "x"}); !errors.Is(err, ErrKey) {
		t.Errorf("one bad among good: %v", err)
	}
	if _, err := GenerateKey("a:b"); !errors.Is(err, ErrKey) {
		t.Errorf("generated with a bad name: %v", err)
	}
}

// However a secret key ends up in a message, the secret does not.
func TestSecretStaysSecret(t *testing.T) {
	s, err := ParseSecretKey(stockSecret)
	if err != nil {
		t.Fatal(err)
	}
	const part = "eWFIboOr"
	for _, f := range []string{"%s", "%v", "%+v", "%#v", "%q"} {
		if out := fmt.Sprintf(f, s); strings.Contains(out, part) {
			t.Errorf("%s: %s", f, out)
		}
	}
	for _, text := range []string{"a b:" + stockSecret[15:], stockSecret[15:], "x:" + stockSecret[15:80], "x:!" + stockSecret[15:]} {
		if _, err := ParseSecretKey(text); err == nil || strings.Contains(err.Error(), part) {
			t.Errorf("%v", err)
		}
	}
	if text := fmt.Sprint(struct{ K SecretKey }{s}, struct{ k SecretKey }{s}, []SecretKey{s}, &s); strings.Contains(text, part) || strings.Contains(text, "121 97 72") {
		t.Error(text)
	}
	data, err := json.Marshal(s) //lint:ignore SA9005 that nothing of it shows is the point
	if err != nil || strings.Contains(string(data), part) {
		t.Errorf("%s, %v", data, err)
	}
}

func FuzzKey(f *testing.F) {
	for _, s := range []string{stockSecret, stockPublic, stockSig} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParsePublicKey(s); err == nil {
			if back, err := ParsePublicKey(k.String()); err != nil || back != k {
				t.Fatalf("%q: %v comes back as %v, %v", s, k, back, err)
			}
		} else if !errors.Is(err, ErrKey) {
			t.Fatalf("untyped error %v", err)
		}
		if k, err := ParseSecretKey(s); err == nil {
			if !k.Public().Verify("x", k.Sign("x")) {
				t.Fatalf("%q: does not verify what it signs", s)
			}
			if back, err := ParseSecretKey(k.Text()); err != nil || back.Text() != k.Text() {
				t.Fatalf("%q: %v comes back as %v, %v", s, k, back, err)
			}
		}
	})
}

func BenchmarkCountValid(b *testing.B) {
	info, k := stockInfo(b), keys(b, stockPublic)
	for b.Loop() {
		k.CountValid(info, dir)
	}
}
