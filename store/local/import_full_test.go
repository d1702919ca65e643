package local_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
)

// A full disk is no fault of a source: nobody else is asked for the same, and
// nothing is left. With space again, the rest comes.
func TestImportOnFullDisk(t *testing.T) {
	testenv.PrivilegedRoot(t)
	root := testenv.Scratch(t)
	real := filepath.Join(root, "nix/store")
	if err := os.MkdirAll(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", real, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(real, 0); err != nil {
			t.Error(err)
		}
	})
	s := open(t, local.Options{Root: root})
	var second atomic.Int64
	var imports []store.Import
	for i := range 10 {
		o := storetest.File(t, s.Dir(), fmt.Sprintf("large-%d", i), strings.Repeat(fmt.Sprint(i), 400<<10))
		imports = append(imports, store.Import{Path: o.Path(), Offers: []store.Offer{o.Offer(nil), o.Offer(&second)}})
	}
	told := 0
	err := s.Import(t.Context(), imports, store.ImportOptions{Jobs: 2, Done: func(int, *store.Offer, error) { told++ }})
	if !errors.Is(err, unix.ENOSPC) || second.Load() > 0 || told != len(imports) {
		t.Errorf("%v; %d second offers, %d outcomes", err, second.Load(), told)
	}
	clean(t, s)
	if err := unix.Mount("tmpfs", real, "tmpfs", unix.MS_REMOUNT, "size=20m"); err != nil {
		t.Fatal(err)
	}
	if err := s.Import(t.Context(), imports, store.ImportOptions{}); err != nil {
		t.Error(err)
	}
	clean(t, s)
}
