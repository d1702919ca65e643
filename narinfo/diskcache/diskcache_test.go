package diskcache_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

const (
	dir = storepath.DefaultDir
	uri = "https://cache.example.org"
)

// open opens a cache in a file that is closed with the test.
func open(t *testing.T, file string) *diskcache.Cache {
	t.Helper()
	c := diskcache.Open(diskcache.Options{File: file, TTL: diskcache.DefaultTTL})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func newFile(t *testing.T) string { return filepath.Join(t.TempDir(), "sub", "answers.sqlite") }

// info makes a narinfo.
func info(t *testing.T, n int) *narinfo.NarInfo {
	t.Helper()
	h := nixhash.Of(nixhash.SHA256, fmt.Sprint(n))
	p, err := dir.Fingerprint("output:out", h, "object")
	if err != nil {
		t.Fatal(err)
	}
	return &narinfo.NarInfo{
		PathInfo:    store.PathInfo{Path: p, NarHash: h, NarSize: 100, Signatures: []store.Signature{"k:AAAA"}},
		URL:         "nar/x.nar.xz?a=b",
		Compression: "xz",
		FileHash:    h,
		FileSize:    50,
	}
}

func realisation(t *testing.T, n int) *store.Realisation {
	t.Helper()
	return &store.Realisation{ID: store.DrvOutput{DrvHash: nixhash.Of(nixhash.SHA256, fmt.Sprint(n)), Output: "out"}, OutPath: info(t, n).Path}
}

// known asks for one hash part.
func known(a *diskcache.Answers, hash string) *diskcache.Answer[narinfo.NarInfo] {
	return a.NarInfos(context.Background(), []string{hash})[0]
}

func TestAnswers(t *testing.T) {
	file := newFile(t)
	a := open(t, file).Of(uri, dir)
	ctx := t.Context()
	there, absent := info(t, 1), info(t, 2).Path.HashPart()
	if i, ok := a.Info(ctx); ok {
		t.Errorf("known: %+v", i)
	}
	meta := narinfo.CacheInfo{Dir: dir, WantMassQuery: true, Priority: 40}
	a.SetInfo(ctx, meta)
	a.SetNarInfos(ctx, map[string]*narinfo.NarInfo{there.Path.HashPart(): there, absent: nil})
	r, none := realisation(t, 1), realisation(t, 2).ID
	a.SetRealisations(ctx, map[store.DrvOutput]*store.Realisation{r.ID: r, none: nil})

	// Another process, as it were.
	b := open(t, file).Of(uri, dir)
	if i, ok := b.Info(ctx); !ok || i != meta {
		t.Errorf("%+v, %v", i, ok)
	}
	unknown := info(t, 3).Path.HashPart()
	got := b.NarInfos(ctx, []string{absent, unknown, there.Path.HashPart(), absent})
	if got[0] == nil || got[0].Value != nil || got[1] != nil || got[3] == nil {
		t.Fatalf("%+v", got)
	}
	want, err := there.Text(dir)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := got[2].Value.Text(dir); err != nil || !bytes.Equal(text, want) {
		t.Errorf("%v\n%s", err, text)
	}
	rs := b.Realisations(ctx, []store.DrvOutput{none, r.ID, realisation(t, 3).ID})
	if rs[0] == nil || rs[0].Value != nil || rs[1] == nil || rs[1].Value.OutPath != r.OutPath || rs[2] != nil {
		t.Errorf("%+v", rs)
	}

	// Other caches, and other store directories, are others.
	for _, c := range []*diskcache.Answers{open(t, file).Of(uri+"/", dir), open(t, file).Of(uri, "/other/store")} {
		if _, ok := c.Info(ctx); ok || known(c, there.Path.HashPart()) != nil {
			t.Error("known of another cache")
		}
		c.SetNarInfos(ctx, map[string]*narinfo.NarInfo{absent: nil}) // of which nothing is known: passed over
		if known(c, absent) != nil {
			t.Error("remembered for a cache that is not known")
		}
	}
	a.Forget(ctx, there.Path.HashPart())
	if known(b, there.Path.HashPart()) != nil || known(b, absent) == nil {
		t.Error("forgot the wrong one")
	}
}

// What one says last counts.
func TestAnswersAreReplaced(t *testing.T) {
	a := open(t, newFile(t)).Of(uri, dir)
	ctx := t.Context()
	a.SetInfo(ctx, narinfo.CacheInfo{Dir: dir})
	i := info(t, 1)
	for _, v := range []*narinfo.NarInfo{nil, i, nil} {
		a.SetNarInfos(ctx, map[string]*narinfo.NarInfo{i.Path.HashPart(): v})
		a.SetInfo(ctx, narinfo.CacheInfo{Dir: dir, Priority: 7})
		if got := known(a, i.Path.HashPart()); got == nil || (got.Value == nil) != (v == nil) {
			t.Errorf("%+v, want %+v", got, v)
		}
	}
}

func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(t)
		a := open(t, file).Of(uri, dir)
		ctx := context.Background() // t's belongs to the bubble, and SQLite waits for it outside
		there, absent := info(t, 1), info(t, 2).Path.HashPart()
		a.SetInfo(ctx, narinfo.CacheInfo{Dir: dir})
		a.SetNarInfos(ctx, map[string]*narinfo.NarInfo{there.Path.HashPart(): there, absent: nil})
		day := 24 * time.Hour
		for _, c := range []struct {
			wait                  time.Duration
			meta, there, negative bool
		}{
			{0, true, true, true},
			{59 * time.Minute, true, true, true},
			{2 * time.Minute, true, true, false},
			{6 * day, true, true, false},
			{day, false, true, false},
			{22 * day, false, true, false},
			{day, false, false, false},
		} {
			time.Sleep(c.wait)
			_, meta := a.Info(ctx)
			if p, n := known(a, there.Path.HashPart()) != nil, known(a, absent) != nil; meta != c.meta || p != c.there || n != c.negative {
				t.Errorf("%v later: meta %v, positive %v, negative %v; want %+v", c.wait, meta, p, n, c)
			}
		}
		// Who believes nothing finds nothing.
		a.SetInfo(ctx, narinfo.CacheInfo{Dir: dir})
		a.SetNarInfos(ctx, map[string]*narinfo.NarInfo{absent: nil})
		doubting := diskcache.Open(diskcache.Options{File: file})
		defer doubting.Close()
		if _, ok := doubting.Of(uri, dir).Info(ctx); ok || known(doubting.Of(uri, dir), absent) != nil {
			t.Error("believed for no time at all")
		}
	})
}

func TestPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newFile(t)
		ctx := context.Background()
		c := diskcache.Open(diskcache.Options{File: file, TTL: diskcache.DefaultTTL})
		a := c.Of(uri, dir)
		there, absent := info(t, 1), info(t, 2).Path.HashPart()
		a.SetInfo(ctx, narinfo.CacheInfo{Dir: dir})
		a.SetNarInfos(ctx, map[string]*narinfo.NarInfo{there.Path.HashPart(): there, absent: nil})
		r := realisation(t, 1)
		a.SetRealisations(ctx, map[store.DrvOutput]*store.Realisation{r.ID: r})
		rows := func() (n [3]int64) {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = diskcache.Open(diskcache.Options{File: file, TTL: diskcache.DefaultTTL})
			c.Of(uri, dir).Info(ctx) // opens it, and purges
			for i, table := range []string{"Caches", "NarInfos", "Realisations"} {
				n[i] = count(t, file, table)
			}
			return n
		}
		for _, s := range []struct {
			wait time.Duration
			want [3]int64
		}{
			{2 * time.Hour, [3]int64{1, 2, 1}}, // not every time
			{23 * time.Hour, [3]int64{1, 1, 1}},
			{30 * 24 * time.Hour, [3]int64{1, 0, 0}},
			{70 * 24 * time.Hour, [3]int64{0, 0, 0}},
		} {
			time.Sleep(s.wait)
			if got := rows(); got != s.want {
				t.Errorf("%v later there are %v rows, want %v", s.wait, got, s.want)
			}
		}
		c.Close()
	})
}

func count(t *testing.T, file, table string) int64 {
	t.Helper()
	conn, err := sqlite.OpenConn(file, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, _, err := conn.PrepareTransient("select count(*) from " + table)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Finalize()
	n, err := sqlitex.ResultInt64(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A file that cannot be used is told once, and nothing is known.
func TestUnusableFiles(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("garbage "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	newer := newFile(t)
	open(t, newer).Of(uri, dir).Info(t.Context())
	script(t, newer, "pragma user_version = 99")
	damaged := newFile(t)
	fill(t, damaged)
	damage(t, damaged)
	for name, file := range map[string]string{
		"no directory":  "/proc/1/no/such.sqlite",
		"a directory":   t.TempDir(),
		"garbage":       garbage,
		"newer version": newer,
		"damaged":       damaged,
	} {
		sink := &testenv.Lines{}
		ctx := activity.With(t.Context(), sink)
		c := open(t, file)
		a := c.Of(uri, dir)
		i := info(t, 1)
		for range 3 {
			a.SetInfo(ctx, narinfo.CacheInfo{Dir: dir})
			a.SetNarInfos(ctx, map[string]*narinfo.NarInfo{i.Path.HashPart(): i})
			for n := range 400 {
				known(a, info(t, n).Path.HashPart())
			}
			if r := a.Realisations(ctx, []store.DrvOutput{realisation(t, 1).ID}); r[0] != nil {
				t.Errorf("%s: %+v", name, r)
			}
			a.Forget(ctx, i.Path.HashPart())
		}
		if len(sink.All()) != 1 || !strings.Contains(sink.All()[0], file) {
			t.Errorf("%s: %q", name, sink.All())
		}
	}
}

// fill remembers many answers.
func fill(t *testing.T, file string) {
	t.Helper()
	c := diskcache.Open(diskcache.Options{File: file, TTL: diskcache.DefaultTTL})
	a := c.Of(uri, dir)
	a.SetInfo(t.Context(), narinfo.CacheInfo{Dir: dir})
	infos := map[string]*narinfo.NarInfo{}
	for n := range 400 {
		i := info(t, n)
		infos[i.Path.HashPart()] = i
	}
	a.SetNarInfos(t.Context(), infos)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// damage overwrites all but the beginning of a file.
func damage(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(data); i++ {
		data[i] = 0xa5
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func script(t *testing.T, file, sql string) {
	t.Helper()
	conn, err := sqlite.OpenConn(file, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.ExecuteScript(conn, sql, nil); err != nil {
		t.Fatal(err)
	}
}

// What is in the file is as little to be trusted as what comes from the network.
func TestHostileRows(t *testing.T) {
	file := newFile(t)
	a := open(t, file).Of(uri, dir)
	i := info(t, 1)
	a.SetInfo(t.Context(), narinfo.CacheInfo{Dir: dir})
	a.SetNarInfos(t.Context(), map[string]*narinfo.NarInfo{i.Path.HashPart(): i})
	r := realisation(t, 1)
	a.SetRealisations(t.Context(), map[store.DrvOutput]*store.Realisation{r.ID: r})
	other, err := info(t, 2).Text(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"''", "'garbage'", "x'00ff'", "17", "'" + string(other) + "'", "zeroblob(20000000)"} {
		script(t, file, "update NarInfos set text = "+text+"; update Realisations set text = "+text)
		if got := known(a, i.Path.HashPart()); got != nil {
			t.Errorf("%.20s: %+v", text, got)
		}
		if got := a.Realisations(t.Context(), []store.DrvOutput{r.ID}); got[0] != nil {
			t.Errorf("%.20s: %+v", text, got[0])
		}
	}
	script(t, file, "update NarInfos set text = null, fetched = 1 << 60")
	if got := known(a, i.Path.HashPart()); got != nil {
		t.Errorf("from the future: %+v", got)
	}
	script(t, file, "update Caches set info = 'Priority: many'")
	if got, ok := a.Info(t.Context()); ok {
		t.Errorf("%+v", got)
	}
}

// A file that is deleted under a running daemon is made anew.
func TestFileIsDeleted(t *testing.T) {
	file := newFile(t)
	a := open(t, file).Of(uri, dir)
	i := info(t, 1)
	set := func() {
		a.SetInfo(t.Context(), narinfo.CacheInfo{Dir: dir})
		a.SetNarInfos(t.Context(), map[string]*narinfo.NarInfo{i.Path.HashPart(): i})
	}
	set()
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	if known(a, i.Path.HashPart()) != nil {
		t.Error("known from a file that is gone")
	}
	set()
	if known(open(t, file).Of(uri, dir), i.Path.HashPart()) == nil {
		t.Error("not in the new file")
	}
}

func TestNoFile(t *testing.T) {
	a := open(t, "").Of(uri, dir)
	a.SetInfo(t.Context(), narinfo.CacheInfo{Dir: dir})
	if _, ok := a.Info(t.Context()); ok || known(a, info(t, 1).Path.HashPart()) != nil {
		t.Error("known without a file")
	}
}

// Many use one file at the same time, through connections of their own.
func TestTogether(t *testing.T) {
	file := newFile(t)
	sink := &testenv.Lines{}
	ctx := activity.With(t.Context(), sink)
	const n, each = 6, 40
	var wg sync.WaitGroup
	for w := range n {
		a := open(t, file).Of(uri, dir)
		wg.Go(func() {
			a.SetInfo(ctx, narinfo.CacheInfo{Dir: dir})
			for i := range each {
				v := info(t, w*each+i)
				a.SetNarInfos(ctx, map[string]*narinfo.NarInfo{v.Path.HashPart(): v})
				if known(a, v.Path.HashPart()) == nil {
					t.Errorf("%d of %d is not known", i, w)
				}
			}
		})
	}
	wg.Wait()
	hashes := make([]string, n*each)
	for i := range hashes {
		hashes[i] = info(t, i).Path.HashPart()
	}
	for i, got := range open(t, file).Of(uri, dir).NarInfos(ctx, hashes) {
		if got == nil {
			t.Errorf("%d got lost", i)
		}
	}
	if len(sink.All()) > 0 {
		t.Errorf("%q", sink.All())
	}
}

func BenchmarkNarInfos(b *testing.B) {
	file := filepath.Join(b.TempDir(), "x.sqlite")
	c := diskcache.Open(diskcache.Options{File: file, TTL: diskcache.DefaultTTL})
	defer c.Close()
	a := c.Of(uri, dir)
	a.SetInfo(b.Context(), narinfo.CacheInfo{Dir: dir})
	infos := map[string]*narinfo.NarInfo{}
	var hashes []string
	for n := range 1000 {
		h := nixhash.Of(nixhash.SHA256, fmt.Sprint(n))
		p, err := dir.Fingerprint("output:out", h, "object")
		if err != nil {
			b.Fatal(err)
		}
		infos[p.HashPart()] = &narinfo.NarInfo{PathInfo: store.PathInfo{Path: p, NarHash: h, NarSize: 1}, URL: "nar/x", Compression: "xz"}
		hashes = append(hashes, p.HashPart())
	}
	a.SetNarInfos(b.Context(), infos)
	for b.Loop() {
		if got := a.NarInfos(b.Context(), hashes); got[0] == nil {
			b.Fatal("not known")
		}
	}
}
