package nixdb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Generations of paths follow each other while the log is written back in all ways,
// begun anew, and the file is made anew by VACUUM. Whatever a view says is of one
// moment, and what SQLite says of that moment is the same.
func TestViewWhileEverythingMoves(t *testing.T) {
	dir := t.TempDir()
	db, writer := openViewDB(t, dir, Options{}), openViewDB(t, dir, Options{NoSync: true})
	if err := db.Register(t.Context(), viewInfos(t, 0, 600)); err != nil {
		t.Fatal(err)
	}
	const size = 30 // paths of a generation; each refers to the one before it
	generation := func(k int) (list []Registration, paths []storepath.Path) {
		list = viewInfos(t, 1000+k%5*100, size)
		for _, r := range list {
			paths = append(paths, r.Info.Path)
		}
		return list, paths
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var same, whole atomic.Int64
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				list, paths := generation(rand.IntN(5))
				if err := errors.Join(viewIsWhole(ctx, db, list, &whole), viewIsSQL(ctx, db, paths, &same)); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	steps, enough := 150, int64(100)
	if testing.Short() {
		steps, enough = 24, 3
	}
	for i := 0; !t.Failed() && (i < steps || i < 20*steps && (same.Load() < enough || whole.Load() < enough)); i++ {
		list, paths := generation(i)
		err := writer.Register(ctx, list)
		if err == nil {
			err = meddle(ctx, writer, i)
		}
		if err == nil && i%3 != 0 {
			_, paths = generation(i + 3)
		}
		if err == nil {
			err = writer.Invalidate(ctx, paths)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if same.Load() == 0 || whole.Load() == 0 {
		t.Errorf("compared were %d and %d answers", same.Load(), whole.Load())
	}
}

// meddle does one of the things that move pages about.
func meddle(ctx context.Context, db *DB, i int) error {
	sql := [...]string{
		"pragma wal_checkpoint(passive)", "pragma wal_checkpoint(restart)", "pragma wal_checkpoint(truncate)", "pragma wal_checkpoint(passive)",
		"vacuum", "reindex", "pragma wal_checkpoint(full)", "select 1",
	}[i%8]
	// Others may be in the way of most of these.
	return db.retry(ctx, "meddling", 0, func() error {
		c, err := db.acquire(ctx, true)
		if err == nil {
			err = c.script(sql)
			db.release(c, true, err)
		}
		return err
	})
}

// viewIsWhole asks about a generation, of which there are all or none.
func viewIsWhole(ctx context.Context, db *DB, want []Registration, whole *atomic.Int64) error {
	var paths []storepath.Path
	for _, r := range want {
		paths = append(paths, r.Info.Path)
	}
	infos, err := db.PathInfos(ctx, paths)
	if err != nil {
		return err
	}
	for i, info := range infos {
		switch {
		case (info == nil) != (infos[0] == nil):
			return fmt.Errorf("path %d of a generation is there: %v, the first one: %v", i, info != nil, infos[0] != nil)
		case info != nil && (info.Path != paths[i] || len(info.References) != len(want[i].Info.References) || info.NarHash != want[i].Info.NarHash):
			return fmt.Errorf("path %d is %+v instead of %+v", i, info, want[i].Info)
		}
	}
	whole.Add(1)
	return nil
}

// viewIsSQL compares what a view says with what SQL says, in a transaction of the very
// state that the view saw.
func viewIsSQL(ctx context.Context, db *DB, paths []storepath.Path, same *atomic.Int64) error {
	return db.reading(ctx, "comparing", func(c *conn) error {
		type saying struct {
			infos     []*store.PathInfo
			referrers [][]storepath.Path
		}
		var sql, seen saying
		var snapshot, state walHeader
		if c.view() == nil {
			return nil
		}
		err := c.transaction("begin", func(c *conn) error {
			for _, p := range paths {
				info, err := db.info(c, p, names{})
				if err != nil {
					return err
				}
				of, err := db.paths(c, "select path from Refs join ValidPaths on referrer = id where reference = (select id from ValidPaths where path = ?)",
					db.o.Dir.Print(p), "ValidPaths")
				if err != nil {
					return err
				}
				sql.infos, sql.referrers = append(sql.infos, info), append(sql.referrers, of)
			}
			snapshot = *(*walHeader)(unsafe.Pointer(&c.seen.src.index().wal.Fhdr))
			return nil
		})
		if err != nil {
			return err
		}
		if !db.look(c, func(c *conn, v *view) error {
			seen, state = saying{}, v.src.seen
			for _, p := range paths {
				info, err := db.seenInfo(v, p, names{})
				if err != nil {
					return err
				}
				of, err := db.seenReferrers(v, p, names{})
				if err != nil {
					return err
				}
				seen.infos, seen.referrers = append(seen.infos, info), append(seen.referrers, of)
			}
			return nil
		}) || state != snapshot {
			return nil
		}
		same.Add(1)
		for i, p := range paths {
			if !reflect.DeepEqual(sql.infos[i], seen.infos[i]) || len(sql.referrers[i])+len(seen.referrers[i]) > 0 && !reflect.DeepEqual(sql.referrers[i], seen.referrers[i]) {
				return fmt.Errorf("'%s': SQL says %+v, %v, and the view %+v, %v", p, sql.infos[i], sql.referrers[i], seen.infos[i], seen.referrers[i])
			}
		}
		return nil
	})
}
