package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// SmallLock is the list of Debian packages, relative to the module's root, that
// the small corpus is made of.
const SmallLock = "internal/corpus/small.lock"

// Corpus returns the small corpus: a directory with real store objects at
// nix/store/, made of some twenty Debian packages, and the file that registers
// them in the text form of `nix-store --load-db`. It is shared by all tests and
// must not be changed. The first use downloads some 40 MB; without a Debian
// mirror the test is skipped.
func Corpus(t testing.TB) (dir, registration string) {
	t.Helper()
	dir, err := SmallCorpus(t.Context(), false, io.Discard)
	if err != nil {
		Skipf(t, "needs the small corpus: %v", err)
	}
	return dir, filepath.Join(dir, "registration")
}

// ProgramsLock is the same for the packages of programs that tests run.
const ProgramsLock = "internal/corpus/programs.lock"

// Programs returns a directory like that of Corpus, of packages with python3, git, perl, vim and
// gcc, and with all that these need. All its objects together, each as the root of a
// Debian system, are one in which they run. The first use downloads some 70 MB; without a Debian
// mirror the test is skipped.
func Programs(t testing.TB) (dir, registration string) {
	t.Helper()
	dir, err := ProgramsCorpus(t.Context(), false, io.Discard)
	if err != nil {
		Skipf(t, "needs programs of Debian: %v", err)
	}
	return dir, filepath.Join(dir, "registration")
}

// SmallCorpus is Corpus without a test; what the maker prints goes to log. A
// recent failure is not tried again unless retry is set.
func SmallCorpus(ctx context.Context, retry bool, log io.Writer) (string, error) {
	return makeCorpus(ctx, "corpus-", SmallLock, retry, log)
}

// ProgramsCorpus is the same for Programs.
func ProgramsCorpus(ctx context.Context, retry bool, log io.Writer) (string, error) {
	return makeCorpus(ctx, "programs-", ProgramsLock, retry, log)
}

// makeCorpus makes the objects that a lock pins.
func makeCorpus(ctx context.Context, prefix, lockFile string, retry bool, log io.Writer) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	lock, err := os.ReadFile(filepath.Join(root, lockFile))
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	name := prefix + hex.EncodeToString(sum[:8])
	return cached(ctx, name, retry, func(ctx context.Context, dir string) error {
		// A program of its own and not a call: the corpus is made with our nar
		// and storepath packages, whose tests import this one.
		tail := &tailBuffer{max: 2000}
		cmd := exec.CommandContext(ctx, "go", "run", "./tools/corpus", "objects", "-lock", lockFile,
			"-cache", filepath.Join(cache, "debs"), "-out", dir)
		cmd.Dir = root
		cmd.Stdout = io.MultiWriter(log, tail)
		cmd.Stderr = cmd.Stdout
		cmd.WaitDelay = 10 * time.Second
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("corpus: %w; its output ended:\n%s", err, tail.b)
		}
		return nil
	})
}
