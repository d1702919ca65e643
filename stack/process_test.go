package stack

import (
	"os"
	"testing"

	"github.com/strata-nix/strata/overlayfs"
)

// A namespace that has the number of one that ended has other mounts.
func TestMountsTellNamespacesApart(t *testing.T) {
	proc := t.TempDir()
	table := "21 1 0:7 / /proc rw - proc proc rw\n34 21 0:51 / /srv/store rw,relatime - overlay overlay rw\n"
	if err := os.WriteFile(proc+"/mountinfo", []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	type mnt struct {
		id             uint64
		device, target string
	}
	for m, want := range map[mnt]bool{
		{34, "0:51", "/srv/store"}: true, {21, "0:7", "/proc"}: true,
		{34, "0:52", "/srv/store"}: false, {33, "0:51", "/srv/store"}: false, {34, "0:51", "/srv/other"}: false,
	} {
		if hasMount(proc, overlayfs.Record{MountID: m.id, Device: m.device, Target: m.target}) != want {
			t.Errorf("%v: not %v", m, want)
		}
	}
	if hasMount(proc+"/ended", overlayfs.Record{}) {
		t.Error("a process that has ended has a mount")
	}
	loop := proc + "/loop"
	if err := os.Mkdir(loop, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("mountinfo", loop+"/mountinfo"); err != nil {
		t.Fatal(err)
	}
	if !hasMount(loop, overlayfs.Record{}) {
		t.Error("a table that cannot be read has no mounts")
	}
}
