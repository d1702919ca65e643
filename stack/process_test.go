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
	for r, want := range map[[2]any]bool{{34, "0:51"}: true, {34, "0:52"}: false, {33, "0:51"}: false, {21, "0:7"}: true} {
		if hasMount(proc, overlayfs.Record{MountID: uint64(r[0].(int)), Device: r[1].(string)}) != want {
			t.Errorf("%v: not %v", r, want)
		}
	}
	if !hasMount(proc+"/gone", overlayfs.Record{}) {
		t.Error("what cannot be read has no mounts")
	}
}
