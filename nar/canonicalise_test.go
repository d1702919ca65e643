package nar

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

func TestCanonicaliseMetadata(t *testing.T) {
	dir := tempDir(t)
	root := dir + "/tree"
	os.MkdirAll(root+"/sub/locked", 0o777)
	write := func(name string, mode os.FileMode) {
		if err := os.WriteFile(root+name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(root+name, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("/plain", 0o666)
	write("/none", 0)
	write("/exec", 0o100)
	write("/others", 0o677)
	write("/suid", os.ModeSetuid|os.ModeSetgid|0o4755)
	write("/sub/locked/f", 0o644)
	os.Chmod(root+"/sub/locked", 0o700)
	os.Chmod(root+"/sub", os.ModeSetgid|os.ModeSticky|0o777)
	os.Symlink("plain", root+"/link")
	os.Symlink("/absent", root+"/dangling")
	os.WriteFile(dir+"/outside", nil, 0o640)
	os.Symlink("../outside", root+"/out")
	for range 2 { // the second time there is nothing to do
		if err := Canonicalise(ctx, root, CanonicaliseOptions{}); err != nil {
			t.Fatal(err)
		}
		want := []string{". 40555", "dangling 120777", "exec 100555", "link 120777", "none 100444", "others 100444",
			"out 120777", "plain 100444", "sub 40555", "sub/locked 40555", "sub/locked/f 100444", "suid 100555"}
		var got []string
		for _, line := range describeTree(t, root) {
			f := strings.Fields(line)
			got = append(got, f[0]+" "+f[1])
			if f[2] != "1.0" || f[4] != fmt.Sprint(os.Geteuid()) {
				t.Error(line)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	var st unix.Stat_t
	if unix.Stat(dir+"/outside", &st); st.Mode&0o777 != 0o640 || st.Mtim.Sec == 1 {
		t.Errorf("a symlink was followed: mode %o", st.Mode)
	}
}

func TestCanonicaliseAsOrdinaryUser(t *testing.T) {
	if !testenv.Unprivileged(t) {
		return
	}
	root := tempDir(t) + "/tree"
	os.MkdirAll(root+"/locked", 0o755)
	os.WriteFile(root+"/locked/f", nil, 0)
	os.Chmod(root+"/locked", 0)
	if err := Canonicalise(ctx, root, CanonicaliseOptions{}); err != nil {
		t.Fatal(err)
	}
	if dumpString(t, root) != archive(dirTokens("locked", dirTokens("f", fileTokens(false, "")))) {
		t.Error("tree changed")
	}
}

func TestCanonicaliseRemovesXattrsAndACLs(t *testing.T) {
	root := tempDir(t) + "/tree"
	os.MkdirAll(root+"/d", 0o755)
	os.WriteFile(root+"/f", nil, 0o644)
	if err := unix.Setxattr(root+"/f", "user.note", []byte("x"), 0); err != nil {
		testenv.Skip(t, "no extended attributes on the file system of temporary files")
	}
	unix.Setxattr(root+"/f", "user.keep", []byte("x"), 0)
	if err := unix.Setxattr(root+"/d", "system.posix_acl_default", defaultACL, 0); err != nil {
		testenv.Skip(t, "no ACLs on the file system of temporary files")
	}
	os.WriteFile(root+"/d/inherits", nil, 0o644)
	if len(xattrsOf(t, root+"/d/inherits")) == 0 {
		t.Fatal("no ACL was inherited")
	}
	err := Canonicalise(ctx, root, CanonicaliseOptions{IgnoredACLs: []string{"user.keep", "security.selinux"}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{"/f": {"user.keep"}, "/d": nil, "/d/inherits": nil} {
		if d := cmp.Diff(want, xattrsOf(t, root+path)); d != "" {
			t.Errorf("%s: %s", path, d)
		}
	}
}

func TestCanonicaliseRefusesOtherTypes(t *testing.T) {
	root := tempDir(t) + "/tree"
	os.Mkdir(root, 0o755)
	l, err := net.Listen("unix", root+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Canonicalise(ctx, root, CanonicaliseOptions{})
	if !errors.Is(err, ErrUnsupportedType) || !strings.Contains(err.Error(), root+"/socket") {
		t.Error(err)
	}
	if err := Canonicalise(ctx, root+"/absent", CanonicaliseOptions{}); !os.IsNotExist(errors.Unwrap(err)) && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A build makes a hard link to a file that it may read but not own.
func TestCanonicaliseRefusesHardLinkToForeignFile(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Skip(t, "giving files away needs root")
	}
	dir := tempDir(t)
	os.WriteFile(dir+"/shadow", []byte("secret"), 0o600)
	os.Mkdir(dir+"/out", 0o755)
	os.Link(dir+"/shadow", dir+"/out/loot")
	builder := CanonicaliseOptions{Owners: &UIDRange{30000, 30010}}
	os.Chown(dir+"/out", 30001, 30001)
	if err := Canonicalise(ctx, dir+"/out", builder); !errors.Is(err, ErrOwner) || !strings.Contains(err.Error(), "out/loot") {
		t.Error(err)
	}
	var st unix.Stat_t
	if unix.Stat(dir+"/shadow", &st); st.Mode&0o777 != 0o600 || st.Mtim.Sec == 1 {
		t.Errorf("the foreign file was changed: mode %o", st.Mode)
	}
}

func TestCanonicaliseAcceptsHardLinksWithinABuild(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Skip(t, "giving files away needs root")
	}
	dir := tempDir(t)
	for _, out := range []string{"/out", "/dev"} {
		os.Mkdir(dir+out, 0o755)
		os.Chown(dir+out, 30001, 30001)
	}
	os.WriteFile(dir+"/out/a", nil, 0o755)
	os.Chown(dir+"/out/a", 30001, 30001)
	os.Link(dir+"/out/a", dir+"/out/b")
	os.Link(dir+"/out/a", dir+"/dev/c")
	opts := CanonicaliseOptions{Owners: &UIDRange{30000, 30010}, Seen: make(Inodes)}
	if err := Canonicalise(ctx, dir+"/out", opts); err != nil {
		t.Error(err)
	}
	if err := Canonicalise(ctx, dir+"/dev", opts); err != nil {
		t.Error(err)
	}
	var st unix.Stat_t
	if unix.Stat(filepath.Join(dir, "dev/c"), &st); st.Uid != 0 || st.Mode&0o777 != 0o555 || st.Nlink != 3 {
		t.Errorf("uid %d, mode %o, %d links", st.Uid, st.Mode, st.Nlink)
	}
	// A directory that somebody else owns cannot be a hard link.
	os.Mkdir(dir+"/dir", 0o755)
	if err := Canonicalise(ctx, dir+"/dir", opts); !errors.Is(err, ErrOwner) {
		t.Error(err)
	}
}
