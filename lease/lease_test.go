package lease

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// path makes a path out of a word.
func path(t testing.TB, word string) storepath.Path {
	t.Helper()
	p, err := storepath.FromParts(bytes.Repeat([]byte(word), HashLen)[:HashLen], word)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func paths(t testing.TB, words ...string) []storepath.Path {
	t.Helper()
	var out []storepath.Path
	for _, w := range words {
		out = append(out, path(t, w))
	}
	return out
}

var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func sample(t testing.TB) *Lease {
	t.Helper()
	return &Lease{
		Consumer: "dev-of-alice", Holder: "alice@host:/srv/dev", StoreDir: storepath.DefaultDir, Sequence: 7,
		Published: day, Expires: day.Add(72 * time.Hour), Uses: 1234, Roots: HashesOf(paths(t, "bash", "hello", "glibc", "bash")),
	}
}

func TestRoundTrip(t *testing.T) {
	many := sample(t)
	for i := range 3 * atOnce {
		many.Roots = append(many.Roots, Hash(bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 10)))
	}
	slices.SortFunc(many.Roots, compareHashes)
	many.Roots = slices.Compact(many.Roots)
	none := sample(t)
	none.Roots = nil
	for _, l := range []*Lease{sample(t), many, none} {
		data, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(l, got); d != "" {
			t.Error(d)
		}
		if h, err := decodeHeader(bytes.NewReader(data)); err != nil || h.Sequence != l.Sequence || h.Holder != l.Holder {
			t.Errorf("its header: %+v, %v", h, err)
		}
	}
	if p := path(t, "bash"); HashOf(p).String() != p.HashPart() {
		t.Errorf("the hash of %s is %s", p, HashOf(p))
	}
}

// A lease that anything happened to is none.
func TestDamage(t *testing.T) {
	data, err := sample(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if _, err := Decode(bytes.NewReader(data[:n])); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		bad := slices.Clone(data)
		bad[n] ^= 0x10
		if _, err := Decode(bytes.NewReader(bad)); !errors.Is(err, ErrFormat) {
			t.Fatalf("changed at %d: %v", n, err)
		}
	}
	if _, err := Decode(bytes.NewReader(append(data, 0))); !errors.Is(err, ErrFormat) {
		t.Errorf("something follows: %v", err)
	}
	// A count that promises more than comes takes no memory.
	at := len(data) - sumLen - 3*HashLen - 4
	huge := slices.Clone(data[:at])
	huge = append(huge, 0, 0, 0x3f, 0)
	if n := testing.AllocsPerRun(1, func() { _, err = Decode(bytes.NewReader(huge)) }); n > 200 || !errors.Is(err, ErrFormat) {
		t.Errorf("%v allocations, %v", n, err)
	}
	unsorted := sample(t)
	slices.Reverse(unsorted.Roots)
	if data, err = unsorted.Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(bytes.NewReader(data)); err == nil || !strings.Contains(err.Error(), "not sorted") {
		t.Error(err)
	}
}

func TestStates(t *testing.T) {
	terms := Terms{Term: 72 * time.Hour, Grace: 24 * time.Hour, Skew: 10 * time.Minute}
	for _, c := range []struct {
		name string
		at   time.Duration // after it expired
		want State
	}{
		{"long before", -48 * time.Hour, Live},
		{"just expired, as clocks differ", 9 * time.Minute, Live},
		{"in grace", time.Hour, Grace},
		{"at the end of grace, as clocks differ", 24*time.Hour + 9*time.Minute, Grace},
		{"lapsed", 24*time.Hour + 11*time.Minute, Lapsed},
	} {
		l := sample(t)
		if got := l.State(terms, l.Expires.Add(c.at)); got != c.want || got.Counts() != (c.want != Lapsed) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	forever := sample(t)
	forever.Expires = day.AddDate(5000, 0, 0)
	if got := forever.State(terms, day.AddDate(3, 0, 0)); got != Lapsed {
		t.Errorf("one that promised to last for ever is %s", got)
	}
}

func TestConsumerNames(t *testing.T) {
	for _, bad := range []string{"", ".", "..", ".x", "-x", "a/b", "a b", "a\x00", strings.Repeat("x", maxName+1), "ä"} {
		if CheckConsumer(bad) == nil {
			t.Errorf("%q can be a name", bad)
		}
	}
	if err := CheckConsumer("dev-1.a_B"); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Decode(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := l.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("it is written differently: %v", err)
		}
	})
}

func FuzzParseTerms(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		if terms, err := parseTerms(data); err == nil && terms.check() != nil {
			t.Errorf("%+v", terms)
		}
	})
}

// Golden: the bytes of a lease stay what they are.
func TestGolden(t *testing.T) {
	data, err := sample(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	const want = "sha256:083ymsrardpwpwp2b7lxj2a06mj7k0r27gf69igb72cindy3sgak"
	if got := nixhash.Of(nixhash.SHA256, string(data)).Text(nixhash.Nix32); got != want {
		t.Errorf("%s, and %d bytes", got, len(data))
	}
}
