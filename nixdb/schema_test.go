package nixdb_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/internal/flock"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// schema7 makes a database as Nix 1.11 did.
func schema7(t *testing.T) (dbDir string) {
	t.Helper()
	dbDir = t.TempDir()
	c, err := sqlite.OpenConn(filepath.Join(dbDir, "db.sqlite"), sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := sqlitex.ExecuteScript(c, `
		create table ValidPaths (id integer primary key autoincrement not null, path text unique not null,
			hash text not null, registrationTime integer not null, deriver text, narSize integer);
		create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference),
			foreign key (referrer) references ValidPaths(id) on delete cascade,
			foreign key (reference) references ValidPaths(id) on delete restrict);
		create index IndexReferrer on Refs(referrer);
		create index IndexReference on Refs(reference);
		create table DerivationOutputs (drv integer not null, id text not null, path text not null,
			primary key (drv, id), foreign key (drv) references ValidPaths(id) on delete cascade);
		create index IndexDerivationOutputs on DerivationOutputs(path);
		create table FailedPaths (path text primary key not null, time integer not null);
		insert into ValidPaths values (1, '`+dir.Print(path("old"))+`', '`+info("old").NarHash.Text(nixhash.Base16)+`', 1700000000, null, 103);
		insert into Refs values (1, 1);`, nil); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dbDir, "schema"), "7")
	return dbDir
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOldSchemaIsMigrated(t *testing.T) {
	dbDir := schema7(t)
	if _, err := tryOpen(t, dbDir, nixdb.Options{ReadOnly: true}); err == nil {
		t.Error("opened read-only before the migration")
	}
	db := open(t, dbDir, nixdb.Options{})
	got, err := db.PathInfos(t.Context(), paths("old"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]*store.PathInfo{info("old", "old")}, got, comparable); d != "" {
		t.Error(d)
	}
	if b, err := os.ReadFile(filepath.Join(dbDir, "schema")); err != nil || string(b) != "10" {
		t.Errorf("schema %q, %v", b, err)
	}
	healthy(t, db)
}

func TestMigrationWaitsForOthers(t *testing.T) {
	dbDir := schema7(t)
	user, err := flock.Open(filepath.Join(dbDir, "big-lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	if ok, err := user.Try(flock.Shared); !ok || err != nil {
		t.Fatal(ok, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := nixdb.Open(ctx, dbDir, nixdb.Options{Dir: dir}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dbDir, "schema")); err != nil || string(b) != "7" {
		t.Errorf("schema %q, %v", b, err)
	}
	if err := user.Unlock(); err != nil {
		t.Fatal(err)
	}
	open(t, dbDir, nixdb.Options{})
	if ok, err := user.Try(flock.Exclusive); ok || err != nil {
		t.Errorf("the lock is not held: %v", err)
	}
}

func TestSchemasThatAreRefused(t *testing.T) {
	for version, want := range map[string]string{
		"4": "Berkeley DB", "5": "flat file", "11": "only support 10", "-1": "corrupt", "ten": "corrupt",
	} {
		dbDir := t.TempDir()
		writeFile(t, filepath.Join(dbDir, "schema"), version)
		_, err := tryOpen(t, dbDir, nixdb.Options{})
		var schema *nixdb.SchemaError
		if !errors.As(err, &schema) || !strings.Contains(err.Error(), want) {
			t.Errorf("version %s: %v", version, err)
		}
		if _, err := os.Stat(filepath.Join(dbDir, "db.sqlite")); err == nil {
			t.Errorf("version %s: a database was made", version)
		}
	}
}

// Nix makes the file "schema" empty before it writes to it.
func TestCreationThatWasKilledIsFinished(t *testing.T) {
	dbDir := closedDB(t)
	writeFile(t, filepath.Join(dbDir, "schema"), "")
	if n := len(allPaths(t, open(t, dbDir, nixdb.Options{}))); n != 2 {
		t.Errorf("%d paths", n)
	}
	if b, err := os.ReadFile(filepath.Join(dbDir, "schema")); err != nil || string(b) != "10" {
		t.Errorf("schema %q, %v", b, err)
	}
}

func TestFilesOfANewDatabase(t *testing.T) {
	dbDir := closedDB(t)
	for name, size := range map[string]int64{"schema": 2, "big-lock": 0, "reserved": 8 << 20, "db.sqlite-wal": 0} {
		fi, err := os.Stat(filepath.Join(dbDir, name))
		if err != nil || fi.Size() != size {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A collection must have something to give back, however full the disk became by what was
// written, and must get it back for good.
func TestReserveIsMadeBeforeTheFirstWriteUnlessItIsSpent(t *testing.T) {
	const full = 8 << 20
	size := func(dbDir string) int64 {
		fi, err := os.Stat(filepath.Join(dbDir, "reserved"))
		if err != nil {
			return 0
		}
		return fi.Size()
	}
	written := t.TempDir()
	db := open(t, written, nixdb.Options{})
	register(t, db, info("a"))
	if n := size(written); n != full {
		t.Errorf("%d bytes after a write", n)
	}
	spent := t.TempDir()
	db = open(t, spent, nixdb.Options{})
	db.SpendReserve()
	register(t, db, info("a"))
	if n := size(spent); n != 0 {
		t.Errorf("%d bytes after they were spent", n)
	}
	db.Reserve()
	if n := size(spent); n != full {
		t.Errorf("%d bytes after they were taken again", n)
	}
}

func TestWithoutWriteAheadLog(t *testing.T) {
	dbDir := t.TempDir()
	db := open(t, dbDir, nixdb.Options{NoWAL: true, NoSync: true})
	register(t, db, info("a"))
	if _, err := db.Load(t.Context(), synthetic(2000, true)); err != nil {
		t.Fatal(err)
	}
	other := open(t, dbDir, nixdb.Options{NoWAL: true})
	register(t, other, info("b", "a"))
	if n := len(allPaths(t, db)); n != 2002 {
		t.Errorf("%d paths", n)
	}
	if n := len(allPaths(t, open(t, dbDir, nixdb.Options{NoWAL: true, ReadOnly: true}))); n != 2002 {
		t.Errorf("%d paths, read-only", n)
	}
	for _, suffix := range []string{"-wal", "-shm", ".lock"} {
		if _, err := os.Stat(filepath.Join(dbDir, "db.sqlite"+suffix)); err == nil {
			t.Errorf("there is a file db.sqlite%s", suffix)
		}
	}
	healthy(t, db)
	// Back to the ordinary way.
	for _, db := range []*nixdb.DB{db, other} {
		if err := db.Release(); err != nil {
			t.Fatal(err)
		}
	}
	register(t, open(t, dbDir, nixdb.Options{}), info("c"))
}
