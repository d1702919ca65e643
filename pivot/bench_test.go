package pivot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/pivot"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// BenchmarkMake plans the move of an upper that leans on 100000 paths, of which the new lower lacks
// every tenth, and has a thousand objects itself.
func BenchmarkMake(b *testing.B) {
	const rows, objects = 100_000, 1000
	dirs := map[string]string{}
	for _, name := range []string{"old", "new", "layer", "state"} {
		dirs[name] = filepath.Join(b.TempDir(), name)
		if err := os.MkdirAll(filepath.Join(dirs[name], "db"), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	dbs := map[string]*nixdb.DB{}
	for _, name := range []string{"old", "new", "state"} {
		db, err := nixdb.Open(b.Context(), filepath.Join(dirs[name], "db"), nixdb.Options{Dir: dir, NoSync: true})
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		dbs[name] = db
	}
	infos := make([]*store.PathInfo, rows+objects)
	for i := range infos {
		name := fmt.Sprintf("package-%d", i)
		p, err := storepath.FromParts(nixhash.Of(nixhash.SHA256, name).Bytes()[:20], name)
		if err != nil {
			b.Fatal(err)
		}
		infos[i] = &store.PathInfo{Path: p, NarHash: nixhash.Of(nixhash.SHA256, name), NarSize: 1000, Registered: 1}
		for _, d := range []int{i / 2, i / 7, i % 97} {
			if d < i {
				infos[i].References = append(infos[i].References, infos[d].Path)
			}
		}
		infos[i].References = storepath.SortUnique(infos[i].References)
	}
	put := func(name string, want func(i int) bool) {
		var regs []nixdb.Registration
		for i, info := range infos {
			if !want(i) {
				continue
			}
			if name == "new" {
				info = info.Clone()
				info.References = nil // a lower is closed
			}
			regs = append(regs, nixdb.Registration{Info: info})
		}
		if err := dbs[name].Register(b.Context(), regs); err != nil {
			b.Fatal(err)
		}
	}
	file := func(dir string, i int) {
		if err := os.WriteFile(filepath.Join(dirs[dir], infos[i].Path.Base()), nil, 0o444); err != nil {
			b.Fatal(err)
		}
	}
	put("old", func(i int) bool { return i < rows })
	put("new", func(i int) bool { return i < rows && i%10 != 0 })
	put("state", func(int) bool { return true })
	for i := range infos {
		if i >= rows {
			file("layer", i)
			continue
		}
		file("old", i)
		if i%10 != 0 {
			file("new", i)
		}
	}
	parts := pivot.Parts{
		Dir: dir, DB: dbs["state"], Layer: dirs["layer"], StateDir: dirs["state"],
		Old: []pivot.Lower{{Name: "old", Store: dbs["old"], Dir: dirs["old"]}},
		New: []pivot.Lower{{Name: "new", Store: dbs["new"], Dir: dirs["new"]}},
	}
	b.ReportAllocs()
	for b.Loop() {
		p, err := pivot.Make(b.Context(), parts, pivot.Options{})
		if err != nil || p.Kept.Objects != objects {
			b.Fatalf("%+v, %v", p, err)
		}
	}
}
