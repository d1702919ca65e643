package daemon_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// Stock Nix collects garbage on the store itself, again and again, while four
// clients upload through our daemon. What they hold on to by temporary roots must
// stay, with all that it refers to.
func TestStockCollectionsDuringUploads(t *testing.T) {
	root := testenv.Scratch(t)
	r := startRig(t, root)
	nix := testenv.Nix(t, newest).WithBind(filepath.Join(root, "nix"), "/nix")
	const clients, collections = 4, 4
	var uploads, collecting sync.WaitGroup
	over := make(chan struct{})
	var kept [clients][]storetest.Object
	for n := range clients {
		c := r.client()
		roots := c.NewTempRoots()
		t.Cleanup(func() { roots.Close() })
		uploads.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				objects := storetest.Chain(t, nixDir, 3)
				// Some are the same for all clients, who want them at the same moment.
				objects = append(objects, file(t, fmt.Sprintf("shared-%d", i), 3000, objects[2].Path()))
				own := file(t, fmt.Sprintf("own-%d-%d", n, i), 3000, objects[3].Path())
				objects = append(objects, own)
				o := unsigned
				if i%2 == 0 {
					o.Roots = roots
					kept[n] = append(kept[n], own)
				} else if i%3 == 0 {
					own = file(t, fmt.Sprintf("single-%d-%d", n, i), 3000)
					objects = []storetest.Object{own}
				}
				if err := c.AddMultiple(t.Context(), &storetest.Source{Objects: objects}, o); err != nil {
					t.Errorf("client %d, round %d: %v", n, i, err)
					return
				}
				if v, err := c.ValidPaths(t.Context(), pathsOf(own)); i%2 == 0 && (err != nil || len(v) != 1) {
					t.Errorf("client %d, round %d: rooted, and not valid: %v", n, i, err)
				}
			}
		})
	}
	collector := r.client()
	collecting.Go(func() {
		defer close(over)
		for range collections {
			out, err := nix.Command(t.Context(), "nix-store", "--gc").CombinedOutput()
			if err != nil {
				t.Errorf("nix-store --gc: %v\n%s", err, out)
			}
			// Ours at the same time, which waits for its turn.
			if _, err := collector.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}); err != nil {
				t.Errorf("our collection: %v", err)
			}
		}
	})
	collecting.Wait()
	uploads.Wait()
	c := r.client()
	total := 0
	for n := range clients {
		r.valid(c, true, kept[n]...)
		total += len(kept[n])
		for _, o := range kept[n][max(0, len(kept[n])-3):] {
			must(t, nar(t, c, o))
		}
	}
	if total < clients {
		t.Errorf("only %d uploads", total)
	}
	if valid := strings.Join(stockVerify(t, root), "\n"); !strings.Contains(valid, "chain-2") {
		t.Errorf("valid: %s", valid)
	}
	// Nothing lies about but locks and what is valid.
	valid := storepath.Set{}
	for p, err := range c.AllPaths(t.Context()) {
		must(t, err)
		valid.Add(p)
	}
	for _, name := range r.entries() {
		if p, err := storepath.ParseBase(name); err != nil || !valid.Has(p) && !strings.HasSuffix(name, ".lock") {
			t.Errorf("%s lies about", name)
		}
	}
}

// Stock Nix adds to the store by itself at the same moment, also what we add.
func TestStockAddsBesideTheDaemon(t *testing.T) {
	root := testenv.Scratch(t)
	r := startRig(t, root)
	nix := testenv.Nix(t, newest).WithBind(filepath.Join(root, "nix"), "/nix")
	for i := range 20 {
		nix.WriteFile(t, fmt.Sprintf("files/f%d", i), strings.Repeat(fmt.Sprint(i), 10_000))
	}
	done := make(chan string, 2)
	for range 2 {
		go func() {
			out, err := nix.Command(t.Context(), "bash", "-c", "for f in files/*; do nix-store --add $f & done; wait").CombinedOutput()
			if err != nil {
				t.Errorf("nix-store --add: %v\n%s", err, out)
			}
			done <- string(out)
		}()
	}
	c := r.client()
	for i := range 20 {
		must(t, addTree(t, c, storetest.File(t, nixDir, fmt.Sprintf("f%d", i), strings.Repeat(fmt.Sprint(i), 10_000))))
	}
	for range 2 {
		if out := <-done; strings.Contains(out, "error") {
			t.Error(out)
		}
	}
	if valid := stockVerify(t, root); len(valid) != 20 {
		t.Errorf("%d paths are valid: %q", len(valid), valid)
	}
}
