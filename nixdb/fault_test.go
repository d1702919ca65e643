package nixdb_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
)

// victimVar makes this test binary load into a database until it is killed.
const victimVar = "STRATA_NIXDB_VICTIM"

func TestMain(m *testing.M) {
	if dbDir := os.Getenv(victimVar); dbDir != "" {
		fmt.Fprintln(os.Stderr, victim(dbDir))
		os.Exit(1)
	}
	if dbDir := os.Getenv(writerVar); dbDir != "" {
		fmt.Fprintln(os.Stderr, writeOn(dbDir))
		os.Exit(1)
	}
	if dbDir := os.Getenv(loaderVar); dbDir != "" {
		if err := loadAndDie(dbDir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victim says when it is in the middle of a transaction, and stays there.
func victim(dbDir string) error {
	db, err := nixdb.Open(context.Background(), dbDir, nixdb.Options{Dir: dir})
	if err != nil {
		return err
	}
	_, err = db.Load(context.Background(), func(yield func(nixdb.Registration, error) bool) {
		n := 0
		for r, err := range synthetic(100000, false) {
			if n++; n == 60000 {
				fmt.Println("in the middle")
				select {} // until the end
			}
			if !yield(r, err) {
				return
			}
		}
	})
	return fmt.Errorf("it ended: %w", err)
}

func TestKilledLoadLeavesNothing(t *testing.T) {
	testenv.Long(t) // so much that it does not fit into memory
	db, dbDir := newDB(t, info("before"))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimVar+"="+dbDir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	kerr := cmd.Process.Kill()
	_ = cmd.Wait() // was killed
	if err != nil || kerr != nil {
		t.Fatalf("victim: %q, %v, %v", said, err, kerr)
	}
	if n := len(allPaths(t, db)); n != 1 {
		t.Errorf("%d paths are valid", n)
	}
	register(t, db, info("after", "before"))
	healthy(t, db)
}

func TestFullDiskLeavesNothing(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=12m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dbDir := filepath.Join(small, "db") // 8 MiB are reserved
	db := open(t, dbDir, nixdb.Options{})
	register(t, db, info("before"))
	_, err := db.Load(t.Context(), synthetic(12000, false))
	if !errors.Is(err, nixdb.ErrFull) {
		t.Errorf("got %v", err)
	}
	if n := len(allPaths(t, db)); n != 1 {
		t.Errorf("%d paths are valid", n)
	}
	if err := os.Remove(filepath.Join(dbDir, "reserved")); err != nil {
		t.Fatal(err)
	}
	register(t, db, info("after", "before"))
	healthy(t, db)
}

// damage changes a database behind everybody's back.
func damage(t *testing.T, dbDir, sql string) {
	t.Helper()
	c, err := sqlite.OpenConn(filepath.Join(dbDir, "db.sqlite"), sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := sqlitex.ExecuteScript(c, sql, nil); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedRowsAreErrors(t *testing.T) {
	for name, tc := range map[string]struct{ sql, table string }{
		"path":      {"update ValidPaths set path = '/nix/store/nonsense' where path like '%lib'", "ValidPaths"},
		"blob":      {"update ValidPaths set path = x'00ff' where path like '%lib'", "ValidPaths"},
		"hash":      {"update ValidPaths set hash = 'sha256:zz'", "ValidPaths"},
		"deriver":   {"update ValidPaths set deriver = '../x'", "ValidPaths"},
		"size":      {"update ValidPaths set narSize = -5", "ValidPaths"},
		"sigs":      {"update ValidPaths set sigs = 'nocolon'", "ValidPaths"},
		"ca":        {"update ValidPaths set ca = 'fixed:'", "ValidPaths"},
		"reference": {"pragma foreign_keys = 0; insert into Refs select id, 4711 from ValidPaths", "Refs"},
	} {
		t.Run(name, func(t *testing.T) {
			db, dbDir := newDB(t, info("lib"), info("tool", "lib"))
			damage(t, dbDir, tc.sql)
			_, err := db.PathInfos(t.Context(), paths("tool"))
			var row *nixdb.RowError
			if !errors.As(err, &row) || row.Table != tc.table || !errors.Is(err, store.ErrDamaged) {
				t.Errorf("PathInfos: %v", err)
			}
			var last error
			for _, last = range db.AllPathInfos(t.Context()) {
			}
			if !errors.As(last, &row) {
				t.Errorf("AllPathInfos: %v", last)
			}
			if problems, err := db.Check(t.Context(), nixdb.Thorough); err != nil || len(problems) == 0 {
				t.Errorf("Check: %v, %v", problems, err)
			}
			if tc.table == "Refs" {
				if _, err := db.Graph(t.Context()); !errors.As(err, &row) {
					t.Errorf("Graph: %v", err)
				}
			}
		})
	}
}

func TestFileThatIsNoDatabase(t *testing.T) {
	dbDir := closedDB(t)
	if err := os.WriteFile(filepath.Join(dbDir, "db.sqlite"), []byte(strings.Repeat("no database ", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, o := range []nixdb.Options{{}, {ReadOnly: true}} {
		if _, err := tryOpen(t, dbDir, o); !errors.Is(err, nixdb.ErrCorrupt) || !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestDamagedPagesAreFound(t *testing.T) {
	testenv.LongWithRace(t)
	dbDir := filepath.Join(t.TempDir(), "db")
	db, err := nixdb.Open(t.Context(), dbDir, nixdb.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Load(t.Context(), synthetic(2000, false)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dbDir, "db.sqlite"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for page := int64(20); page < 60; page++ {
		if _, err := f.WriteAt([]byte("damage damage damage"), page*4096+8); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	reader := open(t, dbDir, nixdb.Options{ReadOnly: true})
	problems, err := reader.Check(t.Context(), nixdb.Thorough)
	if err != nil || len(problems) == 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if _, err := reader.Graph(t.Context()); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("got %v", err)
	}
}
