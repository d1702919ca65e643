package refscan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

const (
	partA = "0123456789abcdfghijklmnpqrsvwxyz"
	partB = "zyxwvsrqpnmlkjihgfdcba9876543210"
	ones  = "11111111111111111111111111111111"
	part1 = "11111111111111111111111111111112"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// cuts writes text to w in pieces of every size up to 70, and of random sizes.
func cuts(text string, write func(piece int, pieces []string)) {
	for size := 1; size <= 70; size++ {
		var pieces []string
		for c := range slices.Chunk([]byte(text), size) {
			pieces = append(pieces, string(c))
		}
		write(size, pieces)
	}
}

func TestScannerFindsAcrossBorders(t *testing.T) {
	all := []string{partA, partB, ones, part1, strings.Repeat("0", 32)}
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{partA[:31], nil},
		{partA, []string{partA}},
		{"/nix/store/" + partA + "-name /nix/store/" + partB + "-b", []string{partA, partB}},
		{partA + partB, []string{partA, partB}},
		{partA + partA, []string{partA}},
		{partA[1:] + partA, []string{partA}},
		{strings.Repeat("1", 100), []string{ones}},
		{strings.Repeat("1", 50) + "2", []string{part1, ones}},
		{"1" + part1, []string{ones, part1}},
		{strings.Repeat("e", 100) + partA + strings.Repeat("e", 40), []string{partA}},
		{strings.ToUpper(partA), nil},
		{partA[:16] + "e" + partA[16:], nil},
		{strings.Repeat("\x00", 77) + partB + "\xff", []string{partB}},
	} {
		slices.Sort(tt.want)
		cuts(tt.text, func(size int, pieces []string) {
			s := must(New(all))
			for _, p := range pieces {
				if n, err := s.Write([]byte(p)); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
			}
			if got := s.Found(); !slices.Equal(got, tt.want) {
				t.Errorf("%q in pieces of %d: found %q, want %q", tt.text, size, got, tt.want)
			}
		})
	}
}

func TestScannerAgreesWithPlainSearch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		// Few distinct digits, so that there are many near misses.
		text := make([]byte, 400)
		for i := range text {
			text[i] = "0000000001e"[rnd.IntN(11)]
		}
		var parts, want []string
		for range 40 {
			at := rnd.IntN(len(text) - Len)
			if p := string(text[at : at+Len]); CheckHashPart(p) == nil && !slices.Contains(parts, p) {
				parts = append(parts, p)
			}
		}
		parts = append(parts, partA)
		for _, p := range parts {
			if bytes.Contains(text, []byte(p)) {
				want = append(want, p)
			}
		}
		slices.Sort(want)
		s := must(New(parts))
		for rest := text; len(rest) > 0; {
			n := min(1+rnd.IntN(90), len(rest))
			s.Write(rest[:n])
			rest = rest[n:]
		}
		if got := s.Found(); !slices.Equal(got, want) {
			t.Fatalf("%q: found %q, want %q", text, got, want)
		}
	}
}

func TestHashPartsAreChecked(t *testing.T) {
	for _, bad := range []string{"", partA[1:], partA + "0", strings.Replace(partA, "a", "e", 1), strings.ToUpper(partA)} {
		if _, err := New([]string{partB, bad}); err == nil {
			t.Errorf("New took %q", bad)
		}
		if _, err := NewRewriter(nil, map[string]string{partA: bad}); err == nil {
			t.Errorf("NewRewriter took %q", bad)
		}
		if _, err := NewModulo(sha256.New(), bad); err == nil {
			t.Errorf("NewModulo took %q", bad)
		}
	}
}

func TestRewriterReplaces(t *testing.T) {
	swap := map[string]string{partA: partB, partB: partA, ones: part1}
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"short", "short"},
		{partA, partB},
		{"a " + partA + " b " + partB + " c", "a " + partB + " b " + partA + " c"},
		{partA + partA, partB + partB},
		{partA[:31], partA[:31]},
		{strings.Repeat("1", 70), part1 + part1 + "111111"},
		{strings.Repeat("e", 31) + partA, strings.Repeat("e", 31) + partB},
	} {
		cuts(tt.in, func(size int, pieces []string) {
			var b bytes.Buffer
			r := must(NewRewriter(&b, swap))
			for _, p := range pieces {
				if n, err := r.Write([]byte(p)); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := r.Close(); err != nil || b.String() != tt.want {
				t.Errorf("%q in pieces of %d: %q, %v", tt.in, size, &b, err)
			}
		})
	}
	big := strings.Repeat("x"+partA+"yy", 10_000)
	var b bytes.Buffer
	r := must(NewRewriter(&b, swap))
	r.Write([]byte(big))
	r.Close()
	if b.String() != strings.ReplaceAll(big, partA, partB) {
		t.Error("large write")
	}
	if _, err := r.Write([]byte("x")); err == nil {
		t.Error("write after close")
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestRewriterPassesOnErrors(t *testing.T) {
	full := errors.New("disk full")
	r := must(NewRewriter(failingWriter{full}, map[string]string{partA: partB}))
	if _, err := r.Write(make([]byte, 100)); !errors.Is(err, full) {
		t.Error(err)
	}
	if err := r.Close(); !errors.Is(err, full) {
		t.Error(err)
	}
}

func TestModulo(t *testing.T) {
	text := "self /nix/store/" + partA + "-x and /nix/store/" + partA + "-x, and not " + partB
	zeroed := strings.ReplaceAll(text, partA, strings.Repeat("\x00", Len))
	plain := sha256.Sum256([]byte(zeroed))
	positions := sha256.Sum256([]byte(zeroed + fmt.Sprintf("|%d|%d", strings.Index(text, partA), strings.LastIndex(text, partA))))
	cuts(text, func(size int, pieces []string) {
		a, b := must(NewModulo(sha256.New(), partA)), must(NewModulo(sha256.New(), partA))
		for _, p := range pieces {
			a.Write([]byte(p))
			b.Write([]byte(p))
		}
		if got := a.Sum(); !bytes.Equal(got, plain[:]) {
			t.Errorf("pieces of %d: Sum = %x", size, got)
		}
		if got := b.SumWithPositions(); !bytes.Equal(got, positions[:]) {
			t.Errorf("pieces of %d: SumWithPositions = %x", size, got)
		}
		if a.Size() != int64(len(text)) {
			t.Errorf("Size = %d, want %d", a.Size(), len(text))
		}
	})
}

// The archive of a directory with one file that names its own path twice, and
// the hash that `nix store make-content-addressed` of Nix 2.34.8 found for it.
func TestModuloOfStockNix(t *testing.T) {
	str := func(tokens ...string) (s string) {
		for _, t := range tokens {
			s += string([]byte{byte(len(t)), 0, 0, 0, 0, 0, 0, 0}) + t
			for len(s)%8 != 0 {
				s += "\x00"
			}
		}
		return s
	}
	self := "/nix/store/" + partA + "-x"
	archive := str("nix-archive-1", "(", "type", "directory", "entry", "(", "name", "f", "node",
		"(", "type", "regular", "contents", "self "+self+" and more "+self+".", ")", ")", ")")
	m := must(NewModulo(sha256.New(), partA))
	m.Write([]byte(archive))
	const want = "9b71ae5a6a9ea1f200c80902c9c9334d727e0b22264ed2a3dc5e96ec9a15f7e4"
	if got := hex.EncodeToString(m.Sum()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzRefScan(f *testing.F) {
	f.Add([]byte("x"+partA+partB), uint8(7))
	f.Add([]byte(strings.Repeat("1", 64)), uint8(1))
	f.Fuzz(func(t *testing.T, text []byte, size uint8) {
		parts := []string{partA, partB, ones}
		if len(text) >= Len && CheckHashPart(string(text[len(text)-Len:])) == nil {
			parts = append(parts, string(text[len(text)-Len:]))
		}
		var want []string
		for _, p := range parts {
			if bytes.Contains(text, []byte(p)) && !slices.Contains(want, p) {
				want = append(want, p)
			}
		}
		slices.Sort(want)
		s := must(New(parts))
		var out bytes.Buffer
		same := must(NewRewriter(&out, map[string]string{partA: partA, ones: ones}))
		for c := range slices.Chunk(text, max(1, int(size))) {
			s.Write(c)
			same.Write(c)
		}
		same.Close()
		if got := s.Found(); !slices.Equal(got, want) {
			t.Errorf("found %q, want %q", got, want)
		}
		if !bytes.Equal(out.Bytes(), text) {
			t.Error("rewriting parts to themselves changed something")
		}
	})
}

func BenchmarkRefScan(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	parts := make([]string, 500)
	for i := range parts {
		p := make([]byte, Len)
		for j := range p {
			p[j] = alphabet[rnd.IntN(32)]
		}
		parts[i] = string(p)
	}
	fill := func(chars string) []byte {
		data := make([]byte, 8<<20)
		for i := range data {
			if chars == "" {
				data[i] = byte(rnd.Uint32())
			} else {
				data[i] = chars[rnd.IntN(len(chars))]
			}
		}
		return data
	}
	for _, data := range []struct {
		name  string
		bytes []byte
	}{
		{"binary", fill("")},
		{"text", bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog; "), 8<<20/45)},
		{"hex", fill("0123456789abcdef")},
		{"digits", fill(alphabet)},
	} {
		b.Run(data.name, func(b *testing.B) {
			b.SetBytes(int64(len(data.bytes)))
			s := must(New(parts))
			for b.Loop() {
				for c := range slices.Chunk(data.bytes, 256<<10) {
					s.Write(c)
				}
			}
		})
	}
}
