package fusefs_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/testenv"
)

// A connection whose mount is gone needs no process, though none could say so.
func TestKeepEndsWithItsMount(t *testing.T) {
	testenv.FUSE(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	at := filepath.Join(testenv.Scratch(t), "mnt")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	conn, _, err := fusefs.Mount(fusefs.MountOptions{Target: at})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.AwaitEnd(0) {
		t.Error("it is mounted, and said to be gone")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started := 0
	err = fusefs.Keep(ctx, conn, fusefs.KeepOptions{Command: func(fusefs.Takeover) *exec.Cmd {
		switch started++; started {
		case 3:
			if err := unix.Unmount(at, 0); err != nil {
				t.Error(err)
			}
		case 4:
			t.Error("it goes on without a mount")
			cancel()
		}
		return exec.Command("false")
	}})
	if err != nil || started < 3 {
		t.Errorf("after %d processes: %v", started, err)
	}
}
