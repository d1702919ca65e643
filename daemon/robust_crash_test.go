package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
)

// afterCrash starts the daemon again and fails unless everything is in order:
// only complete objects are valid, nothing temporary is left, and what was being
// uploaded can be uploaded.
func (r *rig) afterCrash(uploaded ...storetest.Object) {
	r.t.Helper()
	r.start()
	if _, err := os.Lstat(filepath.Join(r.store(), gc.TempName)); err == nil {
		r.t.Error("temporary files are still there after the next start")
	}
	stockVerify(r.t, r.root)
	c := r.client()
	r.add(c, uploaded...)
	for _, o := range uploaded {
		var got bytes.Buffer
		if err := c.NarFromPath(r.t.Context(), o.Path(), &got); err != nil || !bytes.Equal(got.Bytes(), o.NAR) {
			r.t.Errorf("%s is not what was uploaded: %v", o.Path(), err)
		}
	}
	hungUp(r.t, c, r.state())
	if _, err := r.client().CollectGarbage(r.t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
		r.t.Error(err)
	}
	if left := listing(r.t, filepath.Join(r.state(), "temproots")); len(left) > 0 {
		r.t.Errorf("temporary roots after a collection: %q", left)
	}
	r.holds()
}

func TestKillInTheMiddleOfAnUpload(t *testing.T) {
	small, big := file(t, "small", 1000), file(t, "big", 4<<20)
	after := file(t, "after", 1000, big.Path())
	for _, c := range []struct {
		name    string
		objects []storetest.Object
		gate    int   // bytes of the second object that the client sends
		wait    int64 // bytes that the daemon has unpacked when it is killed
	}{
		{"at the beginning of a file", []storetest.Object{small, big, after}, 300 << 10, 2000},
		{"in a file", []storetest.Object{small, big, after}, 3 << 20, 2 << 20},
		{"shortly before its end", []storetest.Object{small, big, after}, len(big.NAR) - 1, 4 << 20 * 9 / 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startRig(t, testenv.Scratch(t))
			g := gated(c.objects[1], c.gate)
			done := make(chan error, 1)
			client := r.client()
			go func() { done <- client.AddMultiple(t.Context(), &gatedSource{objects: c.objects, gate: g}, unsigned) }()
			r.unpacking(c.wait)
			if names := r.entries(); !slices.Contains(names, big.Path().Base()+".lock") {
				t.Errorf("no lock in %q", names)
			}
			if roots := listing(t, filepath.Join(r.state(), "temproots")); len(roots) == 0 {
				t.Error("no temporary roots")
			}
			r.proc.Kill()
			close(g.open)
			if err := <-done; err == nil {
				t.Error("the upload did not fail")
			}
			r.afterCrash(c.objects...)
		})
	}
}

// gatedSource is a source whose second object has a gate.
type gatedSource struct {
	objects []storetest.Object
	gate    *gate
	next    int
}

func (s *gatedSource) Len() int { return len(s.objects) - s.next }

func (s *gatedSource) Next() (*store.PathInfo, io.Reader, error) {
	if s.next == len(s.objects) {
		return nil, nil, io.EOF
	}
	o := s.objects[s.next]
	s.next++
	if s.next == 2 {
		return o.Info, s.gate, nil
	}
	return o.Info, o.Reader(), nil
}

// Killed at whatever moment, while four clients add chains of objects as fast as
// they can.
func TestKillAtAnyMoment(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	const rounds, clients = 6, 4
	var answered atomic.Int32
	for round := range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{}, clients)
		for n := range clients {
			client := r.client()
			go func() {
				defer func() { done <- struct{}{} }()
				for i := 0; ctx.Err() == nil; i++ {
					var batch []storetest.Object
					for k := range 10 {
						o := file(t, fmt.Sprintf("r%d-c%d-%d-%d", round, n, i, k), 100+round)
						if k > 0 {
							o = file(t, o.Path().Name(), 100+round, batch[k-1].Path())
						}
						batch = append(batch, o)
					}
					if client.AddMultiple(ctx, &storetest.Source{Objects: batch}, unsigned) != nil {
						return // killed
					}
					answered.Add(1)
				}
			}()
		}
		// Each round is killed after a different number of objects.
		before := answered.Load()
		eventually(t, "objects arrive", func() bool { return len(r.entries()) > 20+37*round && answered.Load() > before })
		r.proc.Kill()
		cancel()
		for range clients {
			<-done
		}
		r.start()
	}
	r.proc.Kill()
	valid := stockVerify(t, r.root)
	if n := int(answered.Load()); len(valid) < 10*n {
		t.Errorf("%d objects were taken, %d are valid", 10*n, len(valid))
	}
	r.afterCrash(file(t, "more", 10))
}

// The same with a stock client: its second try completes what the first began.
func TestKillDuringStockCopy(t *testing.T) {
	nix, p := stockRig(t)
	nix.WriteFile(t, "tree/big", strings.Repeat("0123456789abcdef", 1<<20))
	for i := range 200 {
		nix.WriteFile(t, fmt.Sprintf("tree/small/%d", i), "small\n")
	}
	source := filepath.Join(nix.Dir, "source")
	path := nix.With("NIX_REMOTE", source).Run(t, "nix", "store", "add", "--name", "tree", "tree")
	socket := filepath.Join(nix.Dir, "socket")
	args := []string{"copy", "--no-check-sigs", "--from", source, "--to", "unix://" + socket, path}
	copying := testenv.Start(t, nix.Command(t.Context(), "nix", args...))
	eventually(t, "something is unpacked", func() bool { return treeSize(filepath.Join(nix.Store(), gc.TempName)) > 0 })
	p.Kill()
	ended(t, copying)
	if copying.Stop() == nil {
		t.Error("the copy did not fail")
	}
	p = testenv.Start(t, nix.With("NIX_REMOTE", "").StrataCommand(t.Context(), t, "daemon", "--socket", socket))
	p.WaitSocket(socket)
	if names := listing(t, nix.Store()); slices.Contains(names, gc.TempName) {
		t.Errorf("after the next start there are %q", names)
	}
	nix.Run(t, "nix", args...)
	nix.Run(t, "nix-store", "--verify-path", path)
	nix.With("NIX_REMOTE", "").Run(t, "nix-store", "--verify", "--check-contents")
}
