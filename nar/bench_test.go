package nar

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// The trees that are measured: "large" is a few files of many megabytes,
// "small" is like a directory of C++ headers: 40 files of 1 to 20 KB in each
// directory. Set TMPDIR to a tmpfs to leave the disk out.

func largeTree(b *testing.B) string {
	root := filepath.Join(b.TempDir(), "large")
	os.Mkdir(root, 0o755)
	data := make([]byte, 32<<20)
	src := rand.NewChaCha8([32]byte{})
	for i := range 4 {
		src.Read(data)
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint("lib", i)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return root
}

const smallFiles = 10_000

func smallTree(b *testing.B) string {
	root := filepath.Join(b.TempDir(), "small")
	rnd := rand.New(rand.NewPCG(1, 2))
	data := bytes.Repeat([]byte("#include <boost/config.hpp> // and so on\n"), 500)
	for i := range smallFiles {
		dir := filepath.Join(root, fmt.Sprintf("include/lib%03d", i/40))
		if i%40 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		file := filepath.Join(dir, fmt.Sprintf("header%05d.hpp", i))
		if err := os.WriteFile(file, data[:1000+rnd.IntN(19_000)], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return root
}

var trees = []struct {
	name  string
	make  func(*testing.B) string
	files float64
}{{"large", largeTree, 4}, {"small", smallTree, smallFiles}}

func benchArchives(b *testing.B, f func(b *testing.B, tree string, archive []byte)) {
	for _, tree := range trees {
		b.Run(tree.name, func(b *testing.B) {
			root := tree.make(b)
			var buf bytes.Buffer
			if err := Dump(context.Background(), &buf, root); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(buf.Len()))
			b.ReportAllocs()
			b.ResetTimer()
			f(b, root, buf.Bytes())
			b.ReportMetric(tree.files*float64(b.N)/b.Elapsed().Seconds(), "files/s")
		})
	}
}

func BenchmarkDump(b *testing.B) {
	benchArchives(b, func(b *testing.B, tree string, _ []byte) {
		for b.Loop() {
			if err := Dump(context.Background(), struct{ io.Writer }{io.Discard}, tree); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDumpHash(b *testing.B) {
	benchArchives(b, func(b *testing.B, tree string, _ []byte) {
		for b.Loop() {
			if err := Dump(context.Background(), sha256.New(), tree); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	benchArchives(b, func(b *testing.B, _ string, archive []byte) {
		br := bufio.NewReaderSize(nil, 64<<10)
		for b.Loop() {
			br.Reset(bytes.NewReader(archive))
			for r := NewReader(br); ; {
				if _, err := r.Next(); err == io.EOF {
					break
				} else if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

func BenchmarkCopy(b *testing.B) {
	benchArchives(b, func(b *testing.B, _ string, archive []byte) {
		for b.Loop() {
			if _, err := Copy(io.Discard, bufio.NewReaderSize(bytes.NewReader(archive), 64<<10)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCopyUnbuffered(b *testing.B) {
	benchArchives(b, func(b *testing.B, _ string, archive []byte) {
		for b.Loop() {
			if _, err := Copy(io.Discard, bytes.NewReader(archive)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRestore(b *testing.B) {
	benchArchives(b, func(b *testing.B, tree string, archive []byte) {
		root := tree + "-restored"
		for b.Loop() {
			if _, err := Restore(context.Background(), bufio.NewReaderSize(bytes.NewReader(archive), 64<<10), root, RestoreOptions{}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if _, err := RemoveTree(context.Background(), root); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

func BenchmarkRemoveTree(b *testing.B) {
	benchArchives(b, func(b *testing.B, tree string, archive []byte) {
		root := tree + "-restored"
		for b.Loop() {
			b.StopTimer()
			if _, err := Restore(context.Background(), bytes.NewReader(archive), root, RestoreOptions{}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if _, err := RemoveTree(context.Background(), root); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCanonicalise(b *testing.B) {
	benchArchives(b, func(b *testing.B, tree string, archive []byte) {
		for b.Loop() {
			b.StopTimer()
			if _, err := RemoveTree(context.Background(), tree+"-restored"); err != nil {
				b.Fatal(err)
			}
			if _, err := Restore(context.Background(), bytes.NewReader(archive), tree+"-restored", RestoreOptions{KeepMetadata: true}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := Canonicalise(context.Background(), tree+"-restored", CanonicaliseOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
