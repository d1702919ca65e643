package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// crashParts makes a child read files one by one, instead of fetching objects.
const crashParts = "STRATA_TEST_CRASH_PARTS"

// partsChild reads all files of all objects of a binary cache, one by one, and evicts all.
func partsChild(in string) error {
	st, c, err := openAt(in)
	if err != nil {
		return err
	}
	ctx := context.Background()
	objects, err := st.Objects(in)
	if err != nil {
		return err
	}
	for p, err := range st.origin.AllPaths(ctx) {
		if err != nil {
			return err
		}
		ob, err := objects.Lookup(ctx, p.Base())
		if err != nil {
			return err
		}
		if err := readAll(ctx, ob); err != nil {
			return err
		}
	}
	if err := objects.Close(); err != nil {
		return err
	}
	_, err = c.Evict(ctx, lazy.EvictOptions{All: true})
	return err
}

// readAll reads all files of an object, and compares them with what they must be.
func readAll(ctx context.Context, ob fusefs.Object) error {
	for n := range ob.Tree().Len() {
		node := ob.Tree().Node(n)
		if node.Kind == fusefs.Directory || node.Kind == fusefs.Symlink {
			continue
		}
		b := make([]byte, node.Size)
		if _, err := ob.ReadAt(ctx, n, b, 0); err != nil {
			return err
		}
		if want, ok := crashFiles[ob.Tree().Path(n)]; !ok || string(b) != want {
			return fmt.Errorf("'%s' has other contents", ob.Tree().Path(n))
		}
	}
	return nil
}

// crashFiles are those of the objects.
var crashFiles = map[string]string{"bin/hello": "hello", "lib/big": noise(7, 300_000), "share/empty": "", "share/doc": noise(8, 70_000)}

// Wherever a process is killed that reads files one by one, the next one reads the same, and what is
// complete is whole.
func TestKilledBetweenParts(t *testing.T) {
	in := testenv.Scratch(t)
	paths := sameFiles(t, in, "a", "b") // the second one has all of its files from the first
	step := 2                           // the marks repeat, file by file
	if testing.Short() {
		step = 7
	}
	for at := 0; ; at += step {
		if at > 60 {
			t.Fatal("it never comes to an end")
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashVar+"="+strconv.Itoa(at), crashIn+"="+in, crashParts+"=1")
		out, err := cmd.CombinedOutput()
		readWhole(t, in, paths)
		if t.Failed() {
			t.Fatalf("mark %d: %s", at, out)
		}
		if err == nil {
			if at < 12 {
				t.Errorf("there are only %d marks", at)
			}
			return
		}
		if ws, ok := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); !ok || ws.Signal() != unix.SIGKILL {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// sameFiles puts objects with crashFiles into the binary cache that openAt reads from, with their indexes.
func sameFiles(t *testing.T, in string, names ...string) (paths []storepath.Path) {
	t.Helper()
	objects, err := objstore.NewDirectory(filepath.Join(in, "from"))
	if err != nil {
		t.Fatal(err)
	}
	form := forms["zstd"]
	form.URI, form.WriteIndex = "file://"+in, true
	from, err := binarycache.Open(objects, form)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		o := storetest.Tree(t, dir, name, crashFiles)
		paths = append(paths, o.Path())
		if err := from.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

// readWhole is the next process: it reads what the killed one left, and what that had not fetched.
func readWhole(t *testing.T, in string, paths []storepath.Path) {
	t.Helper()
	st, c, err := openAt(in)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Evict(t.Context(), lazy.EvictOptions{}); err != nil { // removes what is left over
		t.Error(err)
	}
	here(t, c)
	countedRight(t, c)
	objects, err := st.Objects(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.Backward(paths) {
		ob, err := objects.Lookup(t.Context(), p.Base())
		if err == nil {
			err = readAll(t.Context(), ob)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := objects.Close(); err != nil {
		t.Error(err)
	}
	here(t, c)
	if n := st.Counts(); n.Lied+n.Refused+n.EIO != 0 {
		t.Errorf("%+v", n)
	}
	_, err = c.Evict(t.Context(), lazy.EvictOptions{All: true})
	if err = errors.Join(err, checkEmpty(filepath.Join(c.Dir(), "tmp"))); err != nil {
		t.Error(err)
	}
}

// Objects that become complete at the same time, with the same files, do not have these counted besides.
func TestSharedFilesAreCountedOnce(t *testing.T) {
	in := testenv.Scratch(t)
	paths := sameFiles(t, in, "a", "b", "c", "d", "e", "f", "g", "h")
	for range 4 {
		st, c, err := openAt(in)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := st.Objects(in)
		if err != nil {
			t.Fatal(err)
		}
		var readers sync.WaitGroup
		for _, p := range paths {
			readers.Go(func() {
				ob, err := objects.Lookup(t.Context(), p.Base())
				if err == nil {
					err = readAll(t.Context(), ob)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		readers.Wait()
		if err := objects.Close(); err != nil {
			t.Error(err)
		}
		if n := len(here(t, c)); n != len(paths) {
			t.Errorf("%d objects are complete", n)
		}
		countedRight(t, c)
		if _, err := c.Evict(t.Context(), lazy.EvictOptions{All: true}); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// countedRight fails if something is in a cache that its processes have not counted. Of a file that is not complete the last
// block is counted in part.
func countedRight(t *testing.T, c *lazy.Cache) {
	t.Helper()
	was, err := c.Usage(t.Context())
	if err == nil {
		err = os.WriteFile(filepath.Join(c.Dir(), "tally"), nil, 0o600) // all is looked at
	}
	is, uerr := c.Usage(t.Context())
	if err = errors.Join(err, uerr); err != nil || was.Objects != is.Objects || max(was.Bytes, is.Bytes)-min(was.Bytes, is.Bytes) > 16<<10 {
		t.Errorf("counted are %+v, and there are %+v (%v)", was, is, err)
	}
}

func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("'%s' has %d entries", dir, len(entries))
	}
	return err
}
