package fileindex_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
)

// forged is an index with any contents.
func forged(t testing.TB, narSize uint64, frames, contents int, plain []byte) []byte {
	t.Helper()
	var body bytes.Buffer
	w, err := compress.NewWriter(context.Background(), compress.Zstd, &body, compress.Options{Level: compress.DefaultLevel})
	if err == nil {
		_, err = w.Write(plain)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	h := nixhash.Of(nixhash.SHA256, "x").Text(nixhash.Nix32)
	text := fmt.Sprintf("strata-file-index-1\nStorePath: /nix/store/00000000000000000000000000000000-x\nURL: nar/x\nCompression: none\nFileHash: %s\nFileSize: %d\nNarHash: %s\nNarSize: %d\nFrames: %d\nContents: %d\nBody: %s\n\n",
		h, narSize, h, narSize, frames, contents, nixhash.Of(nixhash.SHA256, body.String()).Text(nixhash.Nix32))
	return append([]byte(text), body.Bytes()...)
}

func decode(data []byte) (*fileindex.Index, error) {
	s, err := fileindex.Parse(dir, "x", data)
	if err != nil {
		return nil, err
	}
	return s.Decode()
}

// oneFile is the encoded tree of an object that is a file.
func oneFile(t testing.TB, size int64) []byte {
	t.Helper()
	tree, err := fusefs.BuildTree(size, func(n int64) fusefs.Node { return fusefs.Node{Kind: fusefs.Regular, Size: n} },
		func(int64) iter.Seq2[string, int64] { return func(func(string, int64) bool) {} })
	if err != nil {
		t.Fatal(err)
	}
	return tree.Encoded()
}

func TestHostileContents(t *testing.T) {
	tree, digest := oneFile(t, 5), make([]byte, sha256.Size)
	const size = 24 + 16 + 16 + 16 + 16 + 8 + 8 + 16 // of the NAR
	good := append(bytes.Clone(tree), digest...)
	if _, err := decode(forged(t, size, 0, len(good), good)); err != nil {
		t.Fatal(err)
	}
	name := bytes.Clone(tree)
	binary.LittleEndian.PutUint64(name[16+16:], 1<<63) // a size that no file has
	for what, data := range map[string][]byte{
		"a NAR of another size":        forged(t, size+8, 0, len(good), good),
		"no digests":                   forged(t, size, 0, len(tree), tree),
		"too many digests":             forged(t, size, 0, len(good)+32, append(bytes.Clone(good), digest...)),
		"half a digest":                forged(t, size, 0, len(good)-1, good[:len(good)-1]),
		"frames that are not there":    forged(t, size, 1000, len(good), good),
		"frames instead of digests":    forged(t, size, 4, len(good), good),
		"fewer contents than it says":  forged(t, size, 0, len(good)+1, good),
		"more contents than it says":   forged(t, size, 0, len(good)-32, good),
		"no tree":                      forged(t, size, 0, 5, []byte("hello")),
		"nothing":                      forged(t, size, 0, 0, nil),
		"an impossible size of a file": forged(t, size, 0, len(good), append(name, digest...)),
		"a file of 2^62 bytes":         forged(t, 1<<62, 0, len(good), append(oneFile(t, 1<<62), digest...)),
		"a bomb":                       forged(t, size, 0, 1<<30, make([]byte, 64<<20)),
		"an empty text":                {},
		"a long header":                []byte("strata-file-index-1\n" + strings.Repeat("x", 1<<20)),
	} {
		if _, err := decode(data); !errors.Is(err, fileindex.ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An index may be signed and written by somebody who means harm.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, plain []byte, frames uint8, narSize uint32) {
		x, err := decode(forged(t, uint64(narSize), int(frames), len(plain), plain))
		if err != nil {
			if !errors.Is(err, fileindex.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		for i := range x.Contents.Len() {
			k := x.Contents.Chunk(i)
			if k.Nar < 0 || uint64(k.Nar+k.Size) > x.NarSize {
				t.Fatalf("%+v", k)
			}
			x.Span(k.Nar, k.Size)
			if len(x.Frames) > 0 {
				x.InFile(k.Nar, k.Size)
			}
		}
	})
}

// A file of 10 GB: a chunk is found at once, and the index has 2.5 MB of digests.
func TestLargeFile(t *testing.T) {
	const size = 10 << 30
	digests := make([]byte, size/fileindex.ChunkSize*sha256.Size)
	for i := range digests { // what does not shrink
		digests[i] = byte(i*i>>7 ^ i>>13)
	}
	plain := append(oneFile(t, size), digests...)
	x, err := decode(forged(t, 24+16+16+16+16+8+size+16, 0, len(plain), plain))
	if err != nil {
		t.Fatal(err)
	}
	k := x.Contents.Chunk(70_000)
	if k.Offset != 70_000*fileindex.ChunkSize || k.Size != fileindex.ChunkSize {
		t.Errorf("%+v", k)
	}
	if from, to := x.Span(k.Nar, 1); from != k.Nar || to != k.Nar+k.Size {
		t.Errorf("it comes with %d to %d", from, to)
	}
}

// An object of 10^5 files has an index of about 40 bytes for each of them.
func TestManyFiles(t *testing.T) {
	const files = 100_000
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	put := func(e nar.Entry) {
		t.Helper()
		if err := w.Next(e); err != nil {
			t.Fatal(err)
		}
	}
	put(nar.Entry{Type: nar.TypeDirectory})
	for i := range files {
		if i%1000 == 0 {
			put(nar.Entry{Path: fmt.Sprintf("dir-%03d", i/1000), Type: nar.TypeDirectory})
		}
		content := fmt.Sprintf("contents of file %d", i)
		put(nar.Entry{Path: fmt.Sprintf("dir-%03d/module-%d.py", i/1000, 1000+i%1000), Type: nar.TypeRegular, Size: int64(len(content))})
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	x := index(t, b.Bytes())
	x.Frames = nil
	data, err := x.Encode(dir, key(t, "k"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", len(data))
	if len(data) > 45*files {
		t.Errorf("%d bytes for %d files", len(data), files)
	}
	back, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if n := back.Contents.Len(); n != files {
		t.Errorf("%d chunks", n)
	}
}
