package nixdb_test

import (
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func readAll(infos iter.Seq2[*store.PathInfo, error]) (list []*store.PathInfo, err error) {
	for i, err := range infos {
		if err != nil {
			return list, err
		}
		list = append(list, i)
	}
	return list, nil
}

// stockDB is where the database of the environment's store lies.
func stockDB(e *testenv.NixEnv) string { return filepath.Join(e.Dir, "nix/var/nix/db") }

// dump is what stock Nix says about all paths.
func dump(t *testing.T, e *testenv.NixEnv) []*store.PathInfo {
	t.Helper()
	list, err := readAll(registration.Read(strings.NewReader(e.Run(t, "nix-store", "--dump-db")+"\n"), dir))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// listed is what a DB says, as far as a dump has it.
func listed(t *testing.T, db *nixdb.DB) []*store.PathInfo {
	t.Helper()
	list, err := readAll(db.AllPathInfos(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list, func(a, b *store.PathInfo) int { return storepath.Compare(a.Path, b.Path) })
	for i := range list {
		list[i] = list[i].Clone()
		list[i].Registered, list[i].Ultimate, list[i].Signatures, list[i].CA = 0, false, nil, storepath.ContentAddress{}
	}
	return list
}

// place makes a file for each path, as `nix-store --verify` looks for them.
func place(t *testing.T, e *testenv.NixEnv, infos []*store.PathInfo) {
	t.Helper()
	if err := os.MkdirAll(e.Store(), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		writeFile(t, filepath.Join(e.Store(), i.Path.Base()), "")
	}
}

func TestStockNixReadsWhatWeWrite(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		infos := []*store.PathInfo{info("lib", "lib"), full(), info("glibc"), info("tool", "lib", "glibc")}
		place(t, nix, infos)
		db := open(t, stockDB(nix), nixdb.Options{})
		register(t, db, infos...)
		if _, err := db.Load(t.Context(), padded(nil)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(listed(t, db), dump(t, nix), comparable); d != "" {
			t.Error(d[:min(len(d), 2000)])
		}
		// The padding has no files, so Nix takes it out of the database again.
		nix.Run(t, "nix-store", "--verify")
		if n := len(allPaths(t, db)); n != len(infos) {
			t.Errorf("%d paths after --verify", n)
		}
		healthy(t, db)
		var out []byte
		if out = []byte(nix.Run(t, "nix", "path-info", "--json", dir.Print(infos[1].Path))); !json.Valid(out) {
			t.Fatalf("path-info: %s", out)
		}
		for _, want := range []string{infos[1].CA.String(), string(infos[1].Signatures[0]), infos[1].Deriver.Base()} {
			if !strings.Contains(string(out), want) {
				t.Errorf("path-info lacks %s: %s", want, out)
			}
		}
	})
}

// A database that was filled past SQL is one for stock Nix, which goes on with it.
func TestStockNixReadsLoadsPastSQL(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		regs := bulkInput(150)
		var infos []*store.PathInfo
		for _, r := range regs {
			infos = append(infos, r.Info)
		}
		place(t, nix, infos)
		db := open(t, stockDB(nix), nixdb.Options{})
		if past, err := load(t, db, regs); err != nil || !past {
			t.Fatalf("past SQL: %v, %v", past, err)
		}
		if d := cmp.Diff(listed(t, db), dump(t, nix), comparable); d != "" {
			t.Error(d[:min(len(d), 2000)])
		}
		nix.Run(t, "nix-store", "--verify")
		nix.Run(t, "nix-store", "--gc") // deletes every row, by all indices
		if n := len(allPaths(t, db)); n != 0 {
			t.Errorf("%d paths are left", n)
		}
		healthy(t, db)
	})
}

func TestWeReadWhatStockNixWrites(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		file := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "hello", "hello\n"))
		drv := nix.Run(t, "nix-instantiate", "-E", fmt.Sprintf(
			`derivation { name = "x"; system = "any"; builder = "/bin/sh"; src = builtins.storePath %q; outputs = [ "out" "dev" ]; }`, file))
		for _, o := range []nixdb.Options{{ReadOnly: true}, {}} {
			db := open(t, stockDB(nix), o)
			if d := cmp.Diff(dump(t, nix), listed(t, db), comparable); d != "" {
				t.Errorf("%+v: %s", o, d)
			}
			drvPath, err := dir.Parse(strings.TrimSuffix(drv, "!out"))
			if err != nil {
				t.Fatal(err)
			}
			outputs, err := db.DerivationOutputs(t.Context(), drvPath)
			if err != nil || len(outputs) != 2 || outputs["dev"].Name() != "x-dev" {
				t.Errorf("outputs %v: %v", outputs, err)
			}
			derivers, err := db.ValidDerivers(t.Context(), outputs["out"])
			if err != nil || !slices.Equal(derivers, []storepath.Path{drvPath}) {
				t.Errorf("derivers %v: %v", derivers, err)
			}
			healthy(t, db)
		}
	})
}

// tables describes the schema as SQLite understood it.
func tables(t *testing.T, dbDir string) map[string][]string {
	t.Helper()
	c, err := sqlite.OpenConn(filepath.Join(dbDir, "db.sqlite"), sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	facts := map[string][]string{}
	if err := sqlitex.ExecuteTransient(c, `
		select m.type || ' ' || m.name || ' of ' || m.tbl_name,
			(select group_concat(i.name || ' ' || lower(i.type) || ' ' || i."notnull" || ' ' || i.pk || ' ' || coalesce(i.dflt_value, ''), ', ')
				from pragma_table_xinfo(m.name) i),
			(select group_concat(f."from" || '->' || f."table" || '.' || f."to" || ' ' || f.on_delete || ' ' || f.on_update, ', ')
				from pragma_foreign_key_list(m.name) f),
			(select group_concat(x.name, ', ') from pragma_index_info(m.name) x),
			case m.type when 'trigger' then m.sql end
		from sqlite_master m`, &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		for i := 1; i < 4; i++ {
			facts[s.ColumnText(0)] = append(facts[s.ColumnText(0)], s.ColumnText(i))
		}
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	return facts
}

func TestSchemaIsThatOfStockNix(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	nix.Configure(t, "extra-experimental-features = ca-derivations")
	nix.Run(t, "nix-store", "--init")
	ours := filepath.Join(t.TempDir(), "db")
	db, err := nixdb.Open(t.Context(), ours, nixdb.Options{Dir: dir, Realisations: true})
	if err != nil {
		t.Fatal(err)
	}
	// A big load makes the indices anew.
	if _, err := db.Load(t.Context(), padded(nil)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(tables(t, stockDB(nix)), tables(t, ours)); d != "" {
		t.Error(d)
	}
}

func TestTogetherWithStockNix(t *testing.T) {
	nix := testenv.Nix(t, "2.34")
	nix.Run(t, "nix-store", "--init")
	db := open(t, stockDB(nix), nixdb.Options{})
	register(t, db, info("base"))
	place(t, nix, []*store.PathInfo{info("base")})
	var wg sync.WaitGroup
	wg.Go(func() {
		nix.Run(t, "sh", "-ec", `for i in $(seq 20); do echo $i > f$i; nix-store --add f$i; done`)
	})
	for i := range 100 {
		infos := []*store.PathInfo{info(fmt.Sprintf("ours-%d", i), "base")}
		place(t, nix, infos)
		register(t, db, infos...)
	}
	wg.Wait()
	nix.Run(t, "nix-store", "--verify")
	if n := len(allPaths(t, db)); n != 121 {
		t.Errorf("%d paths", n)
	}
	if d := cmp.Diff(dump(t, nix), listed(t, db), comparable); d != "" {
		t.Error(d)
	}
	healthy(t, db)
}
