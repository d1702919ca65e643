package nar

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What is unpacked there is what Restore makes, however many are unpacked at once.
func TestScratch(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	dir := tempDir(t)
	withACL := unix.Setxattr(dir, "system.posix_acl_default", defaultACL, 0) == nil
	whole := filepath.Join(tempDir(t), "out")
	if _, err := Restore(ctx, strings.NewReader(sampleArchive), whole, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	want := describeTree(t, whole) // which also starts the poller, whose descriptors stay
	fds := len(must(os.ReadDir("/proc/self/fd")))
	s := must(OpenScratch(dir, RestoreOptions{}))
	var all sync.WaitGroup
	const n = 50
	for i := range n {
		all.Go(func() {
			stats, err := s.Restore(ctx, strings.NewReader(sampleArchive), strconv.Itoa(i))
			if err != nil || stats.NarSize != int64(len(sampleArchive)) {
				t.Errorf("%+v, %v", stats, err)
			}
		})
	}
	all.Wait()
	for i := range n {
		if got := describeTree(t, s.At(strconv.Itoa(i))); !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		if got := xattrsOf(t, s.At(strconv.Itoa(i))); withACL && got != nil {
			t.Errorf("it has %q", got)
		}
	}
	if _, err := s.Restore(ctx, strings.NewReader(sampleArchive), "0"); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), s.At("0")) {
		t.Errorf("existing: %v", err)
	}
	if _, err := s.Restore(ctx, strings.NewReader(sampleArchive), "../x"); err == nil {
		t.Error("it can be left")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if after := len(must(os.ReadDir("/proc/self/fd"))); after != fds {
		t.Errorf("%d descriptors before, %d after", fds, after)
	}
}

// A symlink is not the caller's directory, whatever it leads to.
func TestScratchIsADirectory(t *testing.T) {
	dir := tempDir(t)
	for name, err := range map[string]error{
		"link": os.Symlink(dir, filepath.Join(dir, "link")),
		"file": os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
		"none": nil,
	} {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenScratch(filepath.Join(dir, name), RestoreOptions{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
