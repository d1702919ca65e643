package nar

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// stockTree is oddTree with names that a JSON listing cannot hold, and sizes
// around buffers.
func stockTree() string {
	return archive(dirTokens(
		"\xff\xfe", dirTokens("x", linkTokens("\x80")),
		"\xff\xff", fileTokens(true, strings.Repeat("large ", 100_000)),
	))
}

func TestStockNixAgrees(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		for name, in := range map[string]string{
			"odd": oddTree(), "more": stockTree(),
			"file": archive(fileTokens(true, "contents")), "symlink": archive(linkTokens("/nowhere")),
		} {
			// Ours unpacked and dumped by it, and its own unpacked and dumped
			// by us.
			ours := filepath.Join(nix.Dir, "tmp", "ours-"+name)
			if _, err := Restore(ctx, strings.NewReader(in), ours, RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			defer RemoveTree(ctx, ours)
			if got := nix.Run(t, "nix-store", "--dump", ours); got != strings.TrimSuffix(in, "\n") {
				t.Errorf("%s: stock Nix dumps what we restored otherwise", name)
			}
			restore := nix.Command(t.Context(), "nix-store", "--restore", filepath.Join(nix.Dir, "tmp", "stock-"+name))
			restore.Stdin = strings.NewReader(in)
			if out, err := restore.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, out)
			}
			if dumpString(t, filepath.Join(nix.Dir, "tmp", "stock-"+name)) != in {
				t.Errorf("%s: we dump what stock Nix restored otherwise", name)
			}
			// The metadata that a store gives it.
			added := nix.Run(t, "nix-store", "--add", filepath.Join(nix.Dir, "tmp", "stock-"+name))
			defer RemoveTree(ctx, filepath.Join(nix.Dir, added))
			want, got := describeTree(t, filepath.Join(nix.Dir, added)), describeTree(t, ours)
			if strings.Join(want, "\n") != strings.Join(got, "\n") {
				t.Errorf("%s: metadata differ: stock Nix\n%.1000q\nours\n%.1000q", name, want, got)
			}
		}
	})
}

func TestStockNixWritesTheSameListing(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		src := filepath.Join(nix.Dir, "tmp", "t")
		if _, err := Restore(ctx, strings.NewReader(oddTree()), src, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		defer RemoveTree(ctx, src)
		path := nix.Run(t, "nix-store", "--add", src)
		defer RemoveTree(ctx, filepath.Join(nix.Dir, path))
		cache := filepath.Join(nix.Dir, "tmp", "cache")
		nix.Run(t, "nix", "copy", "--no-check-sigs", "--to", "file://"+cache+"?compression=none&write-nar-listing=true", path)
		files := must(filepath.Glob(cache + "/*.ls"))
		if len(files) != 1 {
			t.Fatalf("listings: %q", files)
		}
		got := must(os.ReadFile(files[0]))
		if nix.Version == "2.8" { // wrote the keys in another order
			l := must(ReadListing(bytes.NewReader(got)))
			got = must(l.MarshalJSON())
		}
		if string(got) != oddListing {
			t.Errorf("got  %s\nwant %s", got, oddListing)
		}
	})
}

// Real store objects have the archives that their registration says, and come
// back whole through Copy.
func TestCorpusObjects(t *testing.T) {
	dir, registration := testenv.Corpus(t)
	lines := strings.Split(string(must(os.ReadFile(registration))), "\n")
	tested := 0
	for i, line := range lines {
		if !strings.HasPrefix(line, "/nix/store/") || i+1 == len(lines) {
			continue
		}
		if digest, err := hex.DecodeString(lines[i+1]); err != nil || len(digest) != sha256.Size {
			continue // a reference, not the path that an entry is about
		}
		tested++
		var b bytes.Buffer
		if err := Dump(ctx, &b, filepath.Join(dir, line)); err != nil {
			t.Error(err)
			continue
		}
		if sum := sha256.Sum256(b.Bytes()); hex.EncodeToString(sum[:]) != lines[i+1] {
			t.Errorf("%s: hash is %x, want %s", line, sum, lines[i+1])
		}
		if b.Len() > 20<<20 && testing.Short() {
			continue
		}
		h := sha256.New()
		if _, err := Copy(h, bufio.NewReader(&b)); err != nil || hex.EncodeToString(h.Sum(nil)) != lines[i+1] {
			t.Errorf("%s: copied archive differs: %v", line, err)
		}
	}
	if tested == 0 {
		t.Error("no object in the registration")
	}
}
