package nixhash

import (
	"bytes"
	"errors"
	"testing"
)

// The digests of the empty text are public knowledge; the nix32 ones are what
// `nix hash` prints for them.
var empty = []struct {
	algo           Algorithm
	base16, nix32  string
	base64         string
	sriWithoutTail string
}{
	{SHA256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
		"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"},
	{SHA1, "da39a3ee5e6b4b0d3255bfef95601890afd80709",
		"143xibwh31h9bvxzalr0sjvbbvpa6ffs", "2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk"},
	{MD5, "d41d8cd98f00b204e9800998ecf8427e",
		"3y8bwfr609h3lh9ch0izcqq7fl", "1B2M2Y8AsgTpgAmY7PhCfg==", "md5-1B2M2Y8AsgTpgAmY7PhCfg"},
}

func TestSpellings(t *testing.T) {
	for _, c := range empty {
		h := Of(c.algo, "")
		for f, want := range map[Format]string{Base16: c.base16, Nix32: c.nix32, Base64: c.base64} {
			if got := h.Digest(f); got != want {
				t.Errorf("%s format %d: %s, want %s", c.algo, f, got, want)
			}
			for _, text := range []string{want, c.algo.String() + ":" + want} {
				if back, err := ParseAny(text, c.algo); err != nil || back != h {
					t.Errorf("ParseAny(%q): %v, %v", text, back, err)
				}
			}
		}
		for _, text := range []string{h.String(), c.sriWithoutTail} {
			if back, err := Parse(text); err != nil || back != h {
				t.Errorf("Parse(%q): %v, %v", text, back, err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, s := range []string{
		"", "sha256:", "sha256-", "sha3:00", "sha256:zz",
		empty[0].base16,             // no algorithm
		"sha1:" + empty[0].base16,   // the wrong one
		"sha256:" + "E" + "3b0c442", // short
		"sha256:g" + empty[0].base16[1:],
		"sha256:" + "e" + empty[0].nix32[1:], // e is no digit
		"sha256:z" + empty[0].nix32[1:],      // bits past the last byte
		"sha256-" + empty[0].base64[1:],
		"md5:sha1:" + empty[2].base16,
	} {
		if h, err := Parse(s); !errors.Is(err, ErrFormat) {
			t.Errorf("Parse(%q) = %v, %v; want ErrFormat", s, h, err)
		}
	}
	if _, err := ParseAny("sha1:"+empty[1].base16, SHA256); err == nil {
		t.Error("a hash of another algorithm than the context's was taken")
	}
}

func TestCompress(t *testing.T) {
	if got := Compress([]byte{1, 2, 3, 4, 5}, 2); !bytes.Equal(got, []byte{1 ^ 3 ^ 5, 2 ^ 4}) {
		t.Errorf("Compress: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range empty {
		h := Of(c.algo, "")
		for _, s := range []string{h.Text(Base16), h.Text(Nix32), h.Text(Base64), h.Text(SRI)} {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Parse(s)
		if err != nil {
			return
		}
		for _, format := range []Format{Base16, Nix32, Base64, SRI} {
			if back, err := Parse(h.Text(format)); err != nil || back != h {
				t.Fatalf("%q: %v does not come back from %q: %v", s, h, h.Text(format), err)
			}
		}
	})
}

func BenchmarkEncodeNix32(b *testing.B) {
	d := Of(SHA256, "x").Bytes()
	for b.Loop() {
		EncodeNix32(d)
	}
}
