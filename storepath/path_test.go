package storepath

import (
	"errors"
	"strings"
	"testing"

	"github.com/strata-nix/strata/nixhash"
)

const digits = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q"

func TestParseBase(t *testing.T) {
	long := strings.Repeat("n", MaxNameLen)
	for _, base := range []string{digits + "-a", digits + "-.config", digits + "-...x", digits + "-a+b-c._?=Z9", digits + "-" + long, digits + "-..."} {
		p, err := ParseBase(base)
		if err != nil || p.Base() != base || p.HashPart() != digits || digits+"-"+p.Name() != base {
			t.Errorf("ParseBase(%q) = %v, %v", base, p, err)
		}
	}
	for _, base := range []string{
		"", digits, digits + "-", digits + "_a", digits[1:] + "-ab", "e" + digits[1:] + "-a", strings.ToUpper(digits) + "-a",
		digits + "-.", digits + "-..", digits + "-.-x", digits + "-..-x", digits + "-a/b", digits + "-a b", digits + "-ä",
		digits + "-a\x00", digits + "-" + long + "n",
	} {
		if p, err := ParseBase(base); !errors.Is(err, ErrFormat) {
			t.Errorf("ParseBase(%q) = %v, %v; want ErrFormat", base, p, err)
		}
	}
}

func TestIllegalCharactersAreShownAsTheyAre(t *testing.T) {
	for name, want := range map[string]string{"aüb": "'ü'", "a b": "' '", "a\xff": "'\uFFFD'", "a\nb": `'\n'`} {
		if _, err := ParseBase(digits + "-" + name); err == nil || !strings.HasSuffix(err.Error(), "illegal character "+want) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDirParse(t *testing.T) {
	d := DefaultDir
	want, _ := ParseBase(digits + "-a")
	for _, s := range []string{"/nix/store/" + digits + "-a", "/nix//store/./" + digits + "-a/", "/nix/x/../store/" + digits + "-a"} {
		if p, err := d.Parse(s); err != nil || p != want {
			t.Errorf("Parse(%q) = %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"", digits + "-a", "/nix/store", "/nix/store/", "/gnu/store/" + digits + "-a", "/nix/store/" + digits + "-a/bin", "nix/store/" + digits + "-a"} {
		if p, err := d.Parse(s); !errors.Is(err, ErrFormat) {
			t.Errorf("Parse(%q) = %v, %v; want ErrFormat", s, p, err)
		} else if !strings.Contains(err.Error(), s) {
			t.Errorf("the error about %q does not name it: %v", s, err)
		}
	}
	p, rest, err := d.Split("/nix/store/" + digits + "-a/bin/sh")
	if err != nil || p != want || rest != "/bin/sh" {
		t.Errorf("Split: %v %q %v", p, rest, err)
	}
}

// The paths are what stock Nix prints for the same input (builtins.toFile and
// nix-store --print-fixed-path).
func TestMake(t *testing.T) {
	hello := nixhash.Of(nixhash.SHA256, "hello")
	sha1 := nixhash.Of(nixhash.SHA1, "hello")
	ref, _ := ParseBase("lfngsssysp6h1v4ccqg23c52s9sjl779-x")
	withRef := nixhash.Of(nixhash.SHA256, "hello"+DefaultDir.Print(ref))
	for _, c := range []struct {
		ca   ContentAddress
		refs References
		want string
	}{
		{ContentAddress{Text, hello}, References{}, "i4f75pn3bxkxdk2kld86k5qazq4cqj8i-hello"},
		{ContentAddress{Text, withRef}, References{Others: []Path{ref, ref}}, "ix495fqv3ddh8phry2s72g4pvv1h9qbj-hello"},
		{ContentAddress{Flat, hello}, References{}, "3fhdhfqli6qm669f7sz8d8v6xz24zrqc-hello"},
		{ContentAddress{Flat, sha1}, References{}, "v0nrf1zmxrpzqx6hw27z2qp9glpisrpz-hello"},
		{ContentAddress{Recursive, hello}, References{}, "rvixdlj68pbc6ki2dqrq779ljpxrx549-hello"},
		{ContentAddress{Recursive, sha1}, References{}, "0fxqpv6v9swxzva0krzfwkfdsmy2mm2h-hello"},
	} {
		p, err := DefaultDir.Make("hello", c.ca, c.refs)
		if err != nil || p.Base() != c.want {
			t.Errorf("%s: %v, %v; want %s", c.ca, p, err, c.want)
		}
	}
	for _, c := range []struct {
		ca   ContentAddress
		refs References
	}{
		{ContentAddress{Text, hello}, References{Self: true}},
		{ContentAddress{Text, sha1}, References{}},
		{ContentAddress{Flat, hello}, References{Others: []Path{ref}}},
		{ContentAddress{Recursive, sha1}, References{Self: true}},
		{ContentAddress{Git, nixhash.Of(nixhash.MD5, "")}, References{}},
	} {
		if p, err := DefaultDir.Make("hello", c.ca, c.refs); err == nil {
			t.Errorf("%s with %+v gave %s", c.ca, c.refs, p)
		}
	}
}

func TestContentAddressText(t *testing.T) {
	h := nixhash.Of(nixhash.SHA256, "")
	for _, m := range []Method{Text, Flat, Recursive, Git} {
		ca := ContentAddress{m, h}
		if back, err := ParseContentAddress(ca.String()); err != nil || back != ca {
			t.Errorf("%s: %v, %v", ca, back, err)
		}
		spec := Spec{m, nixhash.SHA256}
		if back, err := ParseSpec(spec.String()); err != nil || back != spec {
			t.Errorf("%s: %v, %v", spec, back, err)
		}
	}
	for _, s := range []string{"fixed", "fixed:", "fixed:sha256", "fixed:sha256:", "text:r:sha256:x", "foo:sha256:x", "fixed:x:sha256:" + h.Digest(nixhash.Nix32)} {
		if ca, err := ParseContentAddress(s); !errors.Is(err, ErrFormat) {
			t.Errorf("%q gave %v, %v", s, ca, err)
		}
	}
}

func FuzzDirSplit(f *testing.F) {
	f.Add("/nix/store/" + digits + "-a/bin/sh")
	f.Add("/nix/store//" + digits + "-a/../x")
	f.Fuzz(func(t *testing.T, s string) {
		p, rest, err := DefaultDir.Split(s)
		if err != nil {
			return
		}
		if back, rest2, err := DefaultDir.Split(DefaultDir.Print(p) + rest); err != nil || back != p || rest2 != rest {
			t.Fatalf("%q: %v %q, then %v %q %v", s, p, rest, back, rest2, err)
		}
	})
}

func FuzzParseContentAddress(f *testing.F) {
	f.Add("fixed:r:sha256:" + nixhash.Of(nixhash.SHA256, "").Digest(nixhash.Nix32))
	f.Add("text:sha256:" + nixhash.Of(nixhash.SHA256, "").Digest(nixhash.Base16))
	f.Fuzz(func(t *testing.T, s string) {
		ca, err := ParseContentAddress(s)
		if err != nil || ca.IsZero() {
			return
		}
		if back, err := ParseContentAddress(ca.String()); err != nil || back != ca {
			t.Fatalf("%q: %v does not come back: %v", s, ca, err)
		}
	})
}
