package nar

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

func TestRemoveTreeOfReadOnlyDirectories(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "tree")
	if _, err := Restore(ctx, strings.NewReader(sampleArchive), root, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	os.Chmod(root, 0o755)
	os.MkdirAll(root+"/locked/in", 0o755)
	os.WriteFile(root+"/locked/in/f", nil, 0o644)
	os.Chmod(root+"/locked/in", 0o400) // may be listed, but not searched
	os.Chmod(root+"/locked", 0)
	os.Chmod(root, 0o555)
	if freed, err := RemoveTree(ctx, root); err != nil || freed <= 0 {
		t.Errorf("%d, %v", freed, err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Error("still there")
	}
}

func TestRemoveTreeLeavesParentModeAlone(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	dir := t.TempDir()
	os.Mkdir(dir+"/x", 0o755)
	os.Chmod(dir, 0o555)
	defer os.Chmod(dir, 0o755)
	if _, err := RemoveTree(ctx, dir+"/x"); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), dir+"/x") {
		t.Error(err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o555 {
		t.Errorf("parent has mode %v", info.Mode())
	}
}

func TestRemoveTreeFollowsNoSymlink(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(dir+"/victim/d", 0o555)
	os.WriteFile(dir+"/victim/f", nil, 0o444)
	os.MkdirAll(dir+"/tree/sub", 0o755)
	os.Symlink("../victim", dir+"/tree/link")
	os.Symlink(dir+"/victim", dir+"/tree/sub/abs")
	os.Symlink("victim", dir+"/link")
	before := describeTree(t, dir+"/victim")
	for _, path := range []string{dir + "/tree", dir + "/link", dir + "/absent", dir + "/absent/too"} {
		if _, err := RemoveTree(ctx, path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", path)
		}
	}
	if strings.Join(before, "\n") != strings.Join(describeTree(t, dir+"/victim"), "\n") {
		t.Error("the symlinks' target changed")
	}
}

func TestRemoveTreeOfAnyDepth(t *testing.T) {
	dir := t.TempDir()
	root := dir + "/tree"
	os.Mkdir(root, 0o755)
	// Longer than PATH_MAX, as a hostile build can make it. It grows at the top and
	// not from inside: while a process has something open at such a depth, stock
	// Nix's collectors fail, those of other tests too.
	for range 1000 {
		next := dir + "/next"
		os.Mkdir(next, 0o755)
		os.Mkdir(next+"/side", 0o555)
		if err := os.Rename(root, next+"/deep-directory"); err != nil {
			t.Fatal(err)
		}
		os.Rename(next, root)
	}
	os.Mkdir(root+"/.strata-moved-1", 0o755) // in the way of a name of ours
	before := len(must(os.ReadDir("/proc/self/fd")))
	if _, err := RemoveTree(ctx, root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Error("still there")
	}
	if after := len(must(os.ReadDir("/proc/self/fd"))); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestRemoveTreeCountsBlocksOfLastLinks(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(dir+"/tree", 0o755)
	os.WriteFile(dir+"/tree/own", make([]byte, 1<<20), 0o644)
	os.WriteFile(dir+"/tree/shared", make([]byte, 1<<20), 0o644)
	os.Truncate(dir+"/tree/own", 1<<40) // a hole takes no blocks
	os.Link(dir+"/tree/shared", dir+"/kept")
	var tree, own unix.Stat_t
	unix.Stat(dir+"/tree", &tree)
	unix.Stat(dir+"/tree/own", &own)
	freed, err := RemoveTree(ctx, dir+"/tree")
	if want := (tree.Blocks + own.Blocks) * 512; err != nil || freed != want {
		t.Errorf("freed %d, want %d (%v)", freed, want, err)
	}
}

func TestRemoveTreeStopsWhenCancelled(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(dir+"/tree", 0o755)
	ctx, cancel := context.WithCancelCause(ctx)
	why := errors.New("why")
	cancel(why)
	if _, err := RemoveTree(ctx, dir+"/tree"); err != why {
		t.Error(err)
	}
	if _, err := os.Lstat(dir + "/tree"); err != nil {
		t.Error(err)
	}
}

// The last names of a file may go at the same moment; its blocks count once.
func TestRemoveTreesThatShareFiles(t *testing.T) {
	top := t.TempDir()
	const trees, files = 8, 50
	for i := range trees {
		if err := os.Mkdir(filepath.Join(top, strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var want, before unix.Stat_t
	for f := range files {
		first := filepath.Join(top, "0", strconv.Itoa(f))
		if err := os.WriteFile(first, make([]byte, 10_000), 0o444); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < trees; i++ {
			if err := os.Link(first, filepath.Join(top, strconv.Itoa(i), strconv.Itoa(f))); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Lstat(first, &before); err != nil {
			t.Fatal(err)
		}
		want.Blocks += before.Blocks
	}
	for i := range trees {
		if err := unix.Lstat(filepath.Join(top, strconv.Itoa(i)), &before); err != nil {
			t.Fatal(err)
		}
		want.Blocks += before.Blocks
	}
	dir, err := os.Open(top)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var freed atomic.Int64
	var wg sync.WaitGroup
	var links sync.Mutex
	for i := range trees {
		wg.Go(func() {
			n, err := RemoveTreeAmong(t.Context(), dir, strconv.Itoa(i), &links)
			freed.Add(n)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if freed.Load() != want.Blocks*512 {
		t.Errorf("%d bytes freed, %d were there", freed.Load(), want.Blocks*512)
	}
}
