package nixdb_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixdb"
)

// writerVar makes this test binary write into a database until it is killed.
const writerVar = "STRATA_NIXDB_WRITER"

// writeOn makes and deletes paths, and says after each commit how many there are of
// which kind: "one" is there if and only if "two" is. Now and then it writes the log back,
// as a process that idles does, so that the next write begins it anew.
func writeOn(dbDir string) error {
	ctx := context.Background()
	db, err := nixdb.Open(ctx, dbDir, nixdb.Options{Dir: dir})
	if err != nil {
		return err
	}
	_ = db.Invalidate(ctx, paths("one", "two"))
	for i := 0; ; i++ {
		if err := db.Register(ctx, regs(info("one", "base"), info("two", "one"))); err != nil {
			return err
		}
		fmt.Println("both")
		if i%2 == 0 {
			if err := db.Release(); err != nil {
				return err
			}
		}
		if err := db.Invalidate(ctx, paths("one", "two")); err != nil {
			return err
		}
		fmt.Println("none")
	}
}

// writerFor starts a process that writes, and kills it after a while.
func writerFor(t *testing.T, dbDir string, d time.Duration) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), writerVar+"="+dbDir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(out)
	if _, err := said.ReadString('\n'); err != nil {
		t.Errorf("the writer: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := said.ReadString('\n'); err != nil {
				return
			}
		}
	})
	time.Sleep(d) // any moment will do
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	_ = cmd.Wait()
}

// readBoth wants both of two paths, or none, and what was there before.
func readBoth(t *testing.T, db *nixdb.DB, when string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	valid, err := db.ValidPaths(ctx, paths("base", "one", "two"))
	if err != nil {
		t.Errorf("%s: %v", when, err)
	} else if len(valid) != 3 && (len(valid) != 1 || valid[0] != path("base")) {
		t.Errorf("%s: %v", when, valid)
	}
}

func TestKilledWritersAndReaders(t *testing.T) {
	testenv.Long(t)
	for _, beside := range []string{"nobody", "a writer", "a reader", "writers that come and go"} {
		t.Run(strings.ReplaceAll(beside, " ", "-"), func(t *testing.T) {
			db, dbDir := newDB(t, info("base"))
			if beside != "a writer" {
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			o := nixdb.Options{Dir: dir, ReadOnly: true}
			for i := range 12 {
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						for (beside == "a reader" || beside == "writers that come and go") && ctx.Err() == nil {
							r, err := nixdb.Open(t.Context(), dbDir, o)
							if err != nil {
								t.Errorf("a reader meanwhile: %v", err)
								return
							}
							readBoth(t, r, "a reader meanwhile")
							_ = r.Close()
						}
					})
					wg.Go(func() {
						for beside == "writers that come and go" && ctx.Err() == nil {
							r, err := nixdb.Open(t.Context(), dbDir, nixdb.Options{Dir: dir})
							if err == nil {
								err = errors.Join(r.Register(t.Context(), regs(info("base"))), r.Close())
							}
							if err != nil {
								t.Errorf("a writer meanwhile: %v", err)
								return
							}
						}
					})
				}
				writerFor(t, dbDir, time.Duration(rand.IntN(40000))*time.Microsecond)
				when := fmt.Sprintf("after kill %d", i)
				if beside == "a writer" {
					readBoth(t, db, when+", through the handle")
				}
				openCtx, stop := context.WithTimeout(t.Context(), 20*time.Second)
				r, err := nixdb.Open(openCtx, dbDir, o)
				stop()
				if err != nil {
					fi, _ := os.Stat(filepath.Join(dbDir, "db.sqlite-wal"))
					t.Errorf("%s: %v (log of %d bytes)", when, err, fi.Size())
				} else {
					readBoth(t, r, when)
					_ = r.Close()
				}
				cancel()
				wg.Wait()
			}
			healthy(t, open(t, dbDir, nixdb.Options{}))
		})
	}
}
