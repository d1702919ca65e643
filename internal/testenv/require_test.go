package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A requirement that lets a test through must be true: the thing is then used.

func TestOverlayRequirementHolds(t *testing.T) {
	Overlay(t)
	if !Isolate(t, Namespace{}) {
		return
	}
	mountOverlay(t)
}

func TestOverlayUserNSRequirementHolds(t *testing.T) {
	OverlayUserNS(t)
	if !Isolate(t, Namespace{User: true}) {
		return
	}
	mountOverlay(t)
}

func mountOverlay(t *testing.T) {
	dir := Scratch(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lower", "x"), []byte("below"), 0o644); err != nil {
		t.Fatal(err)
	}
	opts := strings.ReplaceAll("lowerdir=D/lower,upperdir=D/upper,workdir=D/work,userxattr", "D", dir)
	if err := unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", 0, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(filepath.Join(dir, "merged"), 0) })
	if got, err := os.ReadFile(filepath.Join(dir, "merged", "x")); err != nil || string(got) != "below" {
		t.Errorf("merged: %q, %v", got, err)
	}
}

func TestEROFSRequirementHolds(t *testing.T) {
	mkfs := EROFSMount(t)
	if !Isolate(t, Namespace{}) {
		return
	}
	dir := Scratch(t)
	tree, image, mnt := filepath.Join(dir, "tree"), filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	for _, d := range []string{tree, mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "x"), []byte("in the image"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, image, tree).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	MountEROFS(t, image, mnt)
	t.Cleanup(func() { unix.Unmount(mnt, 0) })
	if got, err := os.ReadFile(filepath.Join(mnt, "x")); err != nil || string(got) != "in the image" {
		t.Errorf("mounted: %q, %v", got, err)
	}
}
