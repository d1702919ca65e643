package fileindex_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

const dir = storepath.DefaultDir

// archive is a NAR with a file of each kind and size that matters.
func archive(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	put := func(e nar.Entry, content string) {
		t.Helper()
		if err := w.Next(e); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); content != "" && err != nil {
			t.Fatal(err)
		}
	}
	file := func(path, content string, executable bool) {
		t.Helper()
		put(nar.Entry{Path: path, Type: nar.TypeRegular, Size: int64(len(content)), Executable: executable}, content)
	}
	put(nar.Entry{Type: nar.TypeDirectory}, "")
	put(nar.Entry{Path: "a", Type: nar.TypeDirectory}, "")
	file("a/\x01\n\xff", "any byte", false)
	file("a/empty", "", false)
	put(nar.Entry{Path: "a/hole", Type: nar.TypeDirectory}, "")
	put(nar.Entry{Path: "a/link", Type: nar.TypeSymlink, Target: "../b"}, "")
	file("big", strings.Repeat("0123456789abcde\n", (2*fileindex.ChunkSize+48)/16), true)
	file("exact", strings.Repeat("x", fileindex.ChunkSize), false)
	file("run", "#!/bin/sh\n", true)
	file("small", "any byte", false)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func find(t testing.TB, tree *fusefs.Tree, path string) uint32 {
	t.Helper()
	n := uint32(0)
	for name := range strings.SplitSeq(path, "/") {
		var ok bool
		if n, ok = tree.Find(n, name); !ok {
			t.Fatalf("there is no %q", path)
		}
	}
	return n
}

func scan(t testing.TB, archive []byte) *fileindex.Contents {
	t.Helper()
	c, err := fileindex.Scan(bytes.NewReader(archive), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Each chunk is where the contents say, and has the digest that they say.
func TestChunksOfANAR(t *testing.T) {
	a := archive(t)
	c := scan(t, a)
	if c.NarSize() != uint64(len(a)) {
		t.Errorf("NAR of %d bytes instead of %d", c.NarSize(), len(a))
	}
	covered := map[uint32]int64{}
	for i := range c.Len() {
		k := c.Chunk(i)
		if got := sha256.Sum256(a[k.Nar : k.Nar+k.Size]); got != k.Digest {
			t.Errorf("chunk %d of %q has another digest", i, c.Tree().Path(k.Node))
		}
		if k.Offset != covered[k.Node] || k.Nar != c.Offset(k.Node)+k.Offset {
			t.Errorf("chunk %d begins at %d", i, k.Offset)
		}
		covered[k.Node] += k.Size
	}
	l, err := nar.List(bytes.NewReader(a))
	if err != nil {
		t.Fatal(err)
	}
	for n := range c.Tree().Len() {
		want := l.Lookup(c.Tree().Path(n))
		if covered[n] != want.Size || c.Offset(n) != want.Offset {
			t.Errorf("%q: %d bytes at %d instead of %d at %d", c.Tree().Path(n), covered[n], c.Offset(n), want.Size, want.Offset)
		}
	}
	same := func(a, b string) bool {
		x, _ := c.FileDigest(find(t, c.Tree(), a))
		y, _ := c.FileDigest(find(t, c.Tree(), b))
		return x == y
	}
	if !same("a/\x01\n\xff", "small") || same("small", "run") || same("big", "exact") {
		t.Error("digests do not tell which files are the same")
	}
	if _, ok := c.FileDigest(find(t, c.Tree(), "a/empty")); ok {
		t.Error("an empty file has a digest")
	}
}

// No chunk lies in two blocks, and a small file costs no more than a small block.
func TestBlocks(t *testing.T) {
	a := archive(t)
	cuts := []int64{0}
	c, err := fileindex.Scan(bytes.NewReader(a), func(off int64) { cuts = append(cuts, off) })
	if err != nil {
		t.Fatal(err)
	}
	cuts = append(cuts, int64(len(a)))
	for i := range c.Len() {
		k := c.Chunk(i)
		for j, at := range cuts {
			if at > k.Nar && at < k.Nar+k.Size {
				t.Errorf("chunk %d is cut at %d", i, at)
			}
			if j > 0 && cuts[j-1] >= at {
				t.Errorf("cuts do not rise: %d", cuts)
			}
		}
		if from, to := c.Block(k.Nar); from > k.Nar || to < k.Nar+k.Size || to-from > fileindex.ChunkSize {
			t.Errorf("chunk %d is in the block from %d to %d", i, from, to)
		}
	}
}

func index(t testing.TB, a []byte) *fileindex.Index {
	t.Helper()
	p, err := storepath.ParseBase("00000000000000000000000000000000-name")
	if err != nil {
		t.Fatal(err)
	}
	return &fileindex.Index{
		Header: fileindex.Header{
			Path: p, NarHash: nixhash.Of(nixhash.SHA256, string(a)), NarSize: uint64(len(a)),
			URL: "nar/x.nar.zst", Compression: "zstd", FileHash: nixhash.Of(nixhash.SHA256, "x"), FileSize: 1000,
		},
		Contents: scan(t, a),
		Frames:   []compress.Frame{{Size: 600, Plain: 1000}, {Size: 300, Plain: uint32(len(a)) - 1000}},
	}
}

func key(t testing.TB, name string) trust.SecretKey {
	t.Helper()
	k, err := trust.GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestIndexThereAndBack(t *testing.T) {
	x, ours, other := index(t, archive(t)), key(t, "ours"), key(t, "other")
	data, err := x.Encode(dir, ours)
	if err != nil {
		t.Fatal(err)
	}
	s, err := fileindex.Parse(dir, "x", data)
	if err != nil {
		t.Fatal(err)
	}
	if !s.VerifiedBy(trust.Keys{}.WithSecret(ours)) || s.VerifiedBy(trust.Keys{}.WithSecret(other)) || s.VerifiedBy(nil) {
		t.Error("signed by the wrong keys")
	}
	if !s.Describes(&store.PathInfo{Path: x.Path, NarHash: x.NarHash, NarSize: x.NarSize}) ||
		s.Describes(&store.PathInfo{Path: x.Path, NarHash: x.FileHash, NarSize: x.NarSize}) {
		t.Error("it describes another object")
	}
	back, err := s.Decode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.Encode(dir, ours)
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("it is another one when it comes back (%v)", err)
	}
}

// Whatever bit is another one: the index is malformed, or nobody has signed it.
func TestSpoiltIndex(t *testing.T) {
	ours := key(t, "ours")
	keys := trust.Keys{}.WithSecret(ours)
	data, err := index(t, archive(t)).Encode(dir, ours)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if s, err := fileindex.Parse(dir, "x", bad); err == nil && s.VerifiedBy(keys) && !bytes.Equal(s.Encoded(), data) {
			// Base64 has bits that mean nothing.
			if text := string(bad[:bytes.Index(bad, []byte("\n\n"))]); !strings.Contains(text[max(0, len(text)-5):], "=") || i < len(text)-5 {
				t.Errorf("byte %d can be another one", i)
			}
		}
	}
	for n := range len(data) {
		if s, err := fileindex.Parse(dir, "x", data[:n]); err == nil && s.VerifiedBy(keys) {
			t.Errorf("it can end after %d bytes", n)
		}
	}
}

func TestRefusedIndexes(t *testing.T) {
	for name, spoil := range map[string]func(x *fileindex.Index){
		"another NAR size":        func(x *fileindex.Index) { x.NarSize++ },
		"frames of another NAR":   func(x *fileindex.Index) { x.Frames[0].Plain++ },
		"frames beyond the file":  func(x *fileindex.Index) { x.Frames[1].Size += 1000 },
		"a frame without bytes":   func(x *fileindex.Index) { x.Frames[0].Size = 0 },
		"a frame that is too big": func(x *fileindex.Index) { x.Frames[0].Size, x.FileSize = fileindex.MaxFrame+1, 1<<40 },
	} {
		x := index(t, archive(t))
		spoil(x)
		if _, err := x.Encode(dir); !errors.Is(err, fileindex.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignaturesAreAdded(t *testing.T) {
	x := index(t, archive(t))
	first, second := key(t, "k-1"), key(t, "k-2")
	data, err := x.Encode(dir, first)
	if err != nil {
		t.Fatal(err)
	}
	old, err := fileindex.Parse(dir, "x", data)
	if err != nil {
		t.Fatal(err)
	}
	if same, added := old.Sign(first); added || !bytes.Equal(same, data) {
		t.Error("a signature that was there was added")
	}
	more, added := old.Sign(second, first)
	signed, err := fileindex.Parse(dir, "x", more)
	if err != nil || !added {
		t.Fatal(added, err)
	}
	for _, k := range []trust.SecretKey{first, second} {
		if !signed.VerifiedBy(trust.Keys{}.WithSecret(k)) {
			t.Errorf("%v has not signed it", k)
		}
	}
	if old.VerifiedBy(trust.Keys{}.WithSecret(second)) || !old.Same(signed) {
		t.Error("the first one is another now")
	}
	if both, err := x.Encode(dir, second, first); err != nil || !bytes.Equal(both, more) {
		t.Errorf("signed at once it is another one, %v", err)
	}
}

// From any place on the chunks are given in both directions, each once.
func TestChunksBeforeAndBehindAPlace(t *testing.T) {
	c := scan(t, archive(t))
	size := int64(c.NarSize())
	for at := int64(0); at <= size; at += 1000 {
		var before, behind []int64
		for i, k := range c.Before(at) {
			if k != c.Chunk(i) || k.Nar+k.Size > at {
				t.Fatalf("before %d: %+v", at, k)
			}
			before = append(before, k.Nar)
		}
		for i, k := range c.Within(at, size) {
			if k != c.Chunk(i) || k.Nar < at {
				t.Fatalf("behind %d: %+v", at, k)
			}
			behind = append(behind, k.Nar)
		}
		slices.Reverse(before)
		if all := append(before, behind...); !slices.IsSorted(all) || len(all) < c.Len()-1 || len(slices.Compact(all)) < c.Len()-1 {
			t.Fatalf("%d of %d chunks are before or behind %d", len(all), c.Len(), at)
		}
	}
}
