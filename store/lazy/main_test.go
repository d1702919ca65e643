package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/internal/fault"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

const dir = storepath.DefaultDir

// origin is a binary cache whose calls can be watched and spoilt.
type origin struct {
	*fault.Objects
	store *binarycache.Store
}

// newOrigin makes a binary cache in memory with some objects.
func newOrigin(t testing.TB, name string, objects ...storetest.Object) *origin {
	t.Helper()
	return newOriginWith(t, name, compress.Zstd, objects...)
}

func newOriginWith(t testing.TB, name string, compression compress.Method, objects ...storetest.Object) *origin {
	t.Helper()
	o := &origin{Objects: &fault.Objects{Store: objstore.NewMemory()}}
	var err error
	o.store, err = binarycache.Open(o.Objects, binarycache.Options{
		URI: "memory://" + name, Compression: compression, WriteListing: true, TTL: diskcache.TTL{Positive: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, ob := range objects {
		if err := o.store.Add(t.Context(), ob.Info, ob.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
	}
	o.Calls()
	return o
}

// nars counts the NARs that were opened since the last time.
func (o *origin) nars() (n int) {
	for _, c := range o.Calls() {
		if strings.HasPrefix(c, "get nar/") {
			n++
		}
	}
	return n
}

func (o *origin) trusted() lazy.Origin { return lazy.Origin{Store: o.store, Trusted: true} }

// setup is a lazy store with all that belongs to it.
type setup struct {
	t       testing.TB
	cache   *lazy.Cache
	store   *lazy.Store
	objects *lazy.Objects
	log     *strings.Builder
	dir     string
}

func newSetup(t testing.TB, o lazy.Options, co lazy.CacheOptions) *setup {
	t.Helper()
	s := &setup{t: t, log: &strings.Builder{}, dir: testenv.Scratch(t)}
	log := slog.New(slog.NewTextHandler(&lockedWriter{w: s.log}, nil))
	if co.Dir == "" {
		co.Dir = filepath.Join(s.dir, "cache")
	}
	co.Log, o.Log = log, log
	var err error
	if s.cache, err = lazy.OpenCache(co); err != nil {
		t.Fatal(err)
	}
	o.Cache = s.cache
	if s.store, err = lazy.Open(o); err != nil {
		t.Fatal(err)
	}
	if s.objects, err = s.store.Objects(s.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.objects.Close(), s.store.Close(), s.cache.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// settled waits until what has come is on disk.
func (s *setup) settled() {
	s.t.Helper()
	if err := s.objects.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.reopen()
}

// reopen makes another process serve, after one that has ended.
func (s *setup) reopen() {
	s.t.Helper()
	var err error
	if s.objects, err = s.store.Objects(s.dir); err != nil {
		s.t.Fatal(err)
	}
}

// find finds a file as the kernel would: name by name.
func (s *setup) find(ctx context.Context, p storepath.Path, file string) (fusefs.Object, uint32, error) {
	o, err := s.objects.Lookup(ctx, p.Base())
	if err != nil {
		return nil, 0, err
	}
	node := uint32(0)
	for name := range strings.SplitSeq(file, "/") {
		if name == "" {
			continue
		}
		var ok bool
		if node, ok = o.Tree().Find(node, name); !ok {
			return nil, 0, fmt.Errorf("%s: %w", file, fs.ErrNotExist)
		}
	}
	return o, node, nil
}

// read reads a file.
func (s *setup) read(ctx context.Context, p storepath.Path, file string) (string, error) {
	o, node, err := s.find(ctx, p, file)
	if err != nil {
		return "", err
	}
	b := make([]byte, o.Tree().Node(node).Size+1)
	n, err := o.ReadAt(ctx, node, b, 0)
	return string(b[:n]), err
}

// wants reads a file that must be there.
func (s *setup) wants(p storepath.Path, file, content string) {
	s.t.Helper()
	got, err := s.read(s.t.Context(), p, file)
	if err != nil || got != content {
		s.t.Errorf("%s/%s is %.100q, %v", p, file, got, err)
	}
}

// lockedWriter is for a log that several write to.
type lockedWriter struct{ w *strings.Builder }

func (l *lockedWriter) Write(p []byte) (int, error) {
	logTurn <- struct{}{}
	defer func() { <-logTurn }()
	return l.w.Write(p)
}

var logTurn = make(chan struct{}, 1)

func (s *setup) logged() string {
	logTurn <- struct{}{}
	defer func() { <-logTurn }()
	return s.log.String()
}

func key(t testing.TB, name string) trust.SecretKey {
	t.Helper()
	k, err := trust.GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keys(t testing.TB, secret ...trust.SecretKey) trust.Keys {
	t.Helper()
	return trust.Keys{}.WithSecret(secret...)
}

// sign makes a copy of an object that is signed.
func sign(t testing.TB, o storetest.Object, k trust.SecretKey) storetest.Object {
	t.Helper()
	o.Info = o.Info.Clone()
	if err := trust.Sign(o.Info, dir, k); err != nil {
		t.Fatal(err)
	}
	return o
}

func tree(t testing.TB, name string, refs ...storepath.Path) storetest.Object {
	t.Helper()
	return storetest.Tree(t, dir, name, map[string]string{"bin/hello": "hello from " + name, "share/empty": "", "share/doc": strings.Repeat(name, 1000)}, refs...)
}

func TestMain(m *testing.M) {
	if in := os.Getenv(walkerVar); in != "" {
		walkerChild(in)
	}
	if at := os.Getenv(crashVar); at != "" {
		crashChild(at)
	}
	os.Exit(m.Run())
}
