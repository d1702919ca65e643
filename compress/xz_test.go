package compress

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/strata-nix/strata/internal/testenv"
)

// kinds are data that use all of a decoder: what repeats near and far, at the
// distances of the last matches, in short, and not at all.
func kinds() map[string][]byte {
	rng := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	records := make([]byte, 0, 200_000)
	for i := 0; len(records) < 200_000; i++ {
		records = append(records, byte(i), 0, 0, byte(i>>8), 'x', 'y', byte(rng.IntN(3)), byte(rng.IntN(200)))
	}
	return map[string][]byte{
		"text": text(300_000), "zeros": make([]byte, 3<<20), "noise": noise, "records": records,
		"mixed": slices.Concat(text(100_000), noise, text(100_000), make([]byte, 100_000), records, noise[:66_000], text(100_000)),
	}
}

// What XZ Utils write with any of its options is read here.
func TestXZOptions(t *testing.T) {
	testenv.LongWithRace(t)
	tool := testenv.Tool(t, "xz")
	options := [][]string{
		{"-0"}, {"-6"}, {"--lzma2=dict=4KiB"}, {"-9"}, {"-1e"}, {"--check=none"}, {"--check=crc32"}, {"--check=crc64"}, {"--check=sha256"},
		{"--block-size=50000"}, {"-T2", "--block-size=100000"},
		{"--lzma2=dict=12KiB,lc=0,lp=4,pb=0"}, {"--lzma2=dict=64KiB,lc=4,lp=0,pb=4"}, {"--lzma2=lc=1,lp=2,pb=1,nice=273"},
		{"--lzma2=dict=1MiB,mode=fast,mf=hc3,nice=8"},
	}
	for kind, data := range kinds() {
		some := options
		if kind != "mixed" {
			some = options[:3]
		}
		for _, args := range some {
			cmd := exec.Command(tool, append(args, "-c")...)
			cmd.Stdin = bytes.NewReader(data)
			z, err := cmd.Output()
			if err != nil {
				t.Fatal(args, err)
			}
			got, err := unpacked(t.Context(), XZ, bytes.NewReader(z))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, %q: %d bytes of %d: %v", kind, args, len(got), len(data), err)
			}
		}
	}
}

func TestXZFilters(t *testing.T) {
	tool := testenv.Tool(t, "xz")
	for _, args := range [][]string{{"--x86", "--lzma2"}, {"--delta=dist=4", "--lzma2"}} {
		cmd := exec.Command(tool, append(args, "-c")...)
		cmd.Stdin = bytes.NewReader(text(1000))
		z, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unpacked(t.Context(), XZ, bytes.NewReader(z)); err == nil || !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// Streams that another encoder writes, in small pieces, with padding between them.
func TestXZStreams(t *testing.T) {
	var z, want bytes.Buffer
	for i, data := range kinds() {
		w, err := xz.WriterConfig{
			Properties: &lzma.Properties{LC: 2, LP: 1, PB: 3}, DictCap: 1 << 16, BlockSize: 123_456, CheckSum: xz.SHA256,
		}.NewWriter(&z)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(i, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		want.Write(data)
		z.Write(make([]byte, 4*want.Len()%32))
	}
	got, err := unpacked(t.Context(), XZ, iotest.HalfReader(bytes.NewReader(z.Bytes())))
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes of %d: %v", len(got), want.Len(), err)
	}
	z.WriteString("\x00\x00")
	if _, err := unpacked(t.Context(), XZ, bytes.NewReader(z.Bytes())); !errors.Is(err, ErrTrailing) {
		t.Errorf("half a padding: %v", err)
	}
}

// Each byte of a stream that is not compressed data counts: none can be changed
// without being noticed.
func TestXZEveryByte(t *testing.T) {
	z := packed(t, XZ, text(500), Options{Level: 1})
	for i := range z {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(z)
			bad[i] ^= flip
			_, err := unpacked(t.Context(), XZ, bytes.NewReader(bad))
			if err == nil {
				t.Errorf("byte %d ^ %#x: no error", i, flip)
			}
		}
	}
}

// Each length of a stream is too short.
func TestXZEveryLength(t *testing.T) {
	z := packed(t, XZ, text(500), Options{Level: 1})
	for n := range len(z) {
		if _, err := unpacked(t.Context(), XZ, bytes.NewReader(z[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(z), err)
		}
	}
}

// FuzzXZ compares with another decoder: what both read is the same, and what that
// one reads this one reads, unless it is cut short, about which that one is lax.
func FuzzXZ(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, err := unpacked(t.Context(), XZ, bytes.NewReader(data))
		r, err2 := xz.NewReader(bytes.NewReader(data))
		if err2 != nil {
			return
		}
		theirs, err2 := io.ReadAll(r)
		switch {
		case err2 != nil || errors.Is(err, io.ErrUnexpectedEOF):
		case err != nil:
			t.Error(err)
		case !bytes.Equal(ours, theirs):
			t.Errorf("%d bytes instead of %d", len(ours), len(theirs))
		}
	})
}

// FuzzLZMA2 does so without the checksums around, which fuzzing does not get
// past. The other decoder does not look at what it need not read.
func FuzzLZMA2(f *testing.F) {
	const dictionary = 1 << 16
	f.Fuzz(func(t *testing.T, data []byte) {
		z := &lzma2Reader{r: bufio.NewReader(bytes.NewReader(data))}
		z.begin(dictionary)
		var ours []byte
		var err error
		for err == nil && len(ours) < 8<<20 {
			err = z.chunk()
			ours = append(ours, z.window[z.given:z.done]...)
			z.given = z.done
		}
		r, err2 := lzma.Reader2Config{DictCap: dictionary}.NewReader2(bytes.NewReader(data))
		if err2 != nil {
			return
		}
		theirs, err2 := io.ReadAll(io.LimitReader(r, 8<<20))
		if err == io.EOF && err2 == nil && !bytes.Equal(ours, theirs) {
			t.Errorf("%d bytes instead of %d", len(ours), len(theirs))
		}
	})
}
