package lazy_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/storepath"
)

const (
	crashVar = "STRATA_TEST_CRASH_AT"
	crashIn  = "STRATA_TEST_CRASH_IN"
)

// crashChild fetches all of a binary cache and evicts it again, and is killed on the way.
func crashChild(at string) {
	n, err := strconv.Atoi(at)
	if err != nil {
		os.Exit(2)
	}
	crashpoint.KillAt(n, func(name string) { fmt.Fprintln(os.Stderr, "killed at", name) })
	in := os.Getenv(crashIn)
	if os.Getenv(crashParts) != "" {
		if err := partsChild(in); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	st, c, err := openAt(in)
	if err == nil {
		var all []storepath.Path
		for p, lerr := range st.origin.AllPaths(context.Background()) {
			if err = lerr; err != nil {
				break
			}
			all = append(all, p)
		}
		if err == nil {
			err = st.Prefetch(context.Background(), all, lazy.PrefetchOptions{Jobs: 1})
		}
		if err == nil {
			_, err = c.Evict(context.Background(), lazy.EvictOptions{All: true})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type crashed struct {
	*lazy.Store
	origin *binarycache.Store
}

// openAt opens a lazy store over the binary cache in a directory.
func openAt(in string) (*crashed, *lazy.Cache, error) {
	objects, err := objstore.NewDirectory(filepath.Join(in, "from"))
	if err != nil {
		return nil, nil, err
	}
	from, err := binarycache.Open(objects, binarycache.Options{URI: "file://" + in, Compression: compress.None})
	if err != nil {
		return nil, nil, err
	}
	c, err := lazy.OpenCache(lazy.CacheOptions{Dir: filepath.Join(in, "cache")})
	if err != nil {
		return nil, nil, err
	}
	st, err := lazy.Open(lazy.Options{Origins: []lazy.Origin{{Store: from, Trusted: true}}, Cache: c})
	return &crashed{st, from}, c, err
}

// Wherever a process is killed, what is there is whole, and the next one goes on.
func TestKilledAnywhere(t *testing.T) {
	in := testenv.Scratch(t)
	objects, err := objstore.NewDirectory(filepath.Join(in, "from"))
	if err != nil {
		t.Fatal(err)
	}
	from, err := binarycache.Open(objects, binarycache.Options{URI: "file://" + in, Compression: compress.None})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		o := tree(t, name)
		if err := from.Add(t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
	}
	for at := 0; ; at++ {
		if at > 50 {
			t.Fatal("it never comes to an end")
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashVar+"="+strconv.Itoa(at), crashIn+"="+in)
		out, err := cmd.CombinedOutput()
		whole(t, in)
		if err == nil {
			if at < 6 {
				t.Errorf("there are only %d marks", at)
			}
			return
		}
		if ws, ok := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); !ok || ws.Signal() != unix.SIGKILL {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// whole fails if a cache is not in order.
func whole(t *testing.T, in string) {
	t.Helper()
	_, c, err := openAt(in)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Evict(t.Context(), lazy.EvictOptions{}); err != nil { // removes what is left over
		t.Error(err)
	}
	all := here(t, c)
	if u, err := c.Usage(t.Context()); err != nil || u.Objects != int64(len(all)) {
		t.Errorf("%d objects are here, and counted are %+v, %v", len(all), u, err)
	}
	for _, d := range []string{"tmp", "users"} {
		entries, err := os.ReadDir(filepath.Join(c.Dir(), d))
		if err != nil || len(entries) > 0 {
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			t.Errorf("left in %s: %s (%v)", d, strings.Join(names, ", "), err)
		}
	}
}
