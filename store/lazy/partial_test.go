package lazy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/fileindex"
	"github.com/strata-nix/strata/internal/fault"
	"github.com/strata-nix/strata/narinfo/diskcache"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// indexed is a binary cache with file indexes and NARs that can be read in parts.
func indexed(t testing.TB, name string, o binarycache.Options, objects ...storetest.Object) *counting {
	t.Helper()
	c := &counting{Objects: &fault.Objects{Store: objstore.NewMemory()}}
	o.URI, o.WriteIndex, o.TTL = "memory://"+name, true, diskcache.TTL{Positive: time.Hour}
	var err error
	if c.store, err = binarycache.Open(c, o); err != nil {
		t.Fatal(err)
	}
	for _, ob := range objects {
		if err := c.store.Add(t.Context(), ob.Info, ob.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
	}
	c.Calls()
	return c
}

// counting counts the bytes of NARs that are read.
type counting struct {
	*fault.Objects
	store *binarycache.Store

	mu    sync.Mutex
	bytes int64
	parts int
}

func (c *counting) Get(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	r, info, err := c.Objects.Get(ctx, name, o)
	if err != nil || !strings.HasPrefix(name, "nar/") {
		return r, info, err
	}
	c.mu.Lock()
	c.parts++
	c.mu.Unlock()
	return body{io.TeeReader(r, c), r}, info, nil
}

func (c *counting) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += int64(len(p))
	return len(p), nil
}

// taken tells how many bytes of NARs were read, and by how many requests, since the last time.
func (c *counting) taken() (bytes int64, parts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes, parts = c.bytes, c.parts
	c.bytes, c.parts = 0, 0
	return bytes, parts
}

func (c *counting) origin(trusted bool) lazy.Origin {
	return lazy.Origin{Store: c.store, Trusted: trusted}
}

// noise is contents that cannot be compressed much.
func noise(seed, n int) string {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x >> 3)
	}
	return string(b)
}

// large is an object with small files and a large one.
func large(t testing.TB, name string) (storetest.Object, map[string]string) {
	t.Helper()
	files := map[string]string{
		"bin/hello": "hello from " + name, "share/empty": "", "share/any\xff\x01": "any byte",
		"lib/big": noise(len(name), 1_500_000), "share/doc": strings.Repeat(name, 1000),
	}
	for i := range 40 {
		files["share/"+string(rune('A'+i))] = noise(i, 10_000)
	}
	return storetest.Tree(t, dir, name, files), files
}

// forms are the ways to write a cache that can be read in parts.
var forms = map[string]binarycache.Options{
	"zstd":           {Compression: compress.Zstd, Seekable: true},
	"not compressed": {Compression: compress.None},
}

// By the time that a program looks up its libraries, it is known what they are.
func TestWhatIsReferredToIsLookedUpAhead(t *testing.T) {
	leaf := storetest.Tree(t, dir, "leaf", map[string]string{"lib/leaf": "leaf"})
	lib := storetest.Tree(t, dir, "lib", map[string]string{"lib/lib": "lib"}, leaf.Path())
	program := storetest.Tree(t, dir, "program", map[string]string{"bin/program": "program"}, lib.Path())
	from := indexed(t, "a", forms["zstd"], leaf, lib, program)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	ctx, stop := context.WithCancel(t.Context())
	var ahead sync.WaitGroup
	defer ahead.Wait()
	defer stop()
	ahead.Go(func() { s.objects.LookAhead(ctx) })
	s.wants(program.Path(), "bin/program", "program")
	known := func() (paths []storepath.Path) {
		for k := range s.objects.Known(0) {
			p, err := storepath.ParseBase(k.Name)
			if err != nil {
				t.Fatal(err)
			}
			paths = append(paths, p)
		}
		return paths
	}
	for len(known()) < 2 {
		time.Sleep(time.Millisecond)
	}
	from.Calls()
	if _, _, err := s.find(t.Context(), lib.Path(), "lib/lib"); err != nil {
		t.Error(err)
	}
	for _, call := range from.Calls() {
		if !strings.Contains(call, leaf.Path().HashPart()) { // that is for what comes next
			t.Errorf("asked for %s", call)
		}
	}
	if n, _ := from.taken(); n > 100_000 {
		t.Errorf("%d bytes of contents were read", n)
	}
}

// Who reads the small files of a directory one after the other does not wait for each of them; who
// reads here and there gets no more than that.
func TestMoreComesAlongWhereOneReads(t *testing.T) {
	files := map[string]string{}
	name := func(dir, i int) string { return fmt.Sprintf("lib/%d/%03d.py", dir, i) }
	for dir := range 8 {
		for i := range 200 {
			files[name(dir, i)] = noise(dir*1000+i, 8_000)
		}
	}
	o := storetest.Tree(t, dir, "library", files)
	from := indexed(t, "a", forms["zstd"], o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	for dir := range 8 {
		s.wants(o.Path(), name(dir, 50), files[name(dir, 50)])
	}
	if n, parts := from.taken(); n > 8*200_000 || parts > 12 {
		t.Errorf("%d bytes were read by %d requests for 8 small files far from each other", n, parts)
	}
	for i := range 100 {
		s.wants(o.Path(), name(3, i), files[name(3, i)])
	}
	if n, parts := from.taken(); n > 2_500_000 || parts > 10 {
		t.Errorf("%d bytes were read by %d requests for 100 small files in a row", n, parts)
	}
}

func TestOnlyWhatIsOpenedIsFetched(t *testing.T) {
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			o, files := large(t, "o")
			from := indexed(t, "a", form, o)
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
			if _, _, err := s.find(t.Context(), o.Path(), "bin/hello"); err != nil {
				t.Fatal(err)
			}
			if n, _ := from.taken(); n != 0 {
				t.Errorf("%d bytes were read to look", n)
			}
			s.wants(o.Path(), "bin/hello", files["bin/hello"])
			if n, parts := from.taken(); n > 100_000 || parts != 1 {
				t.Errorf("%d bytes were read by %d requests for a small file", n, parts)
			}
			ob, node, err := s.find(t.Context(), o.Path(), "lib/big")
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 5000)
			if n, err := ob.ReadAt(t.Context(), node, b, 1_200_000); err != nil || string(b[:n]) != files["lib/big"][1_200_000:1_205_000] {
				t.Errorf("%d bytes, %v", n, err)
			}
			if n, parts := from.taken(); n > 300_000 || parts > 2 {
				t.Errorf("%d bytes were read by %d requests for the middle of a large file", n, parts)
			}
			if s.cache.Has(o.Path()) {
				t.Error("it is said to be complete")
			}
			for f, content := range files {
				s.wants(o.Path(), f, content)
			}
			if n, parts := from.taken(); parts > 40 {
				t.Errorf("%d bytes were read by %d requests for the rest", n, parts)
			}
			s.settled()
			if !s.cache.Has(o.Path()) {
				t.Error("it is not complete with all its files")
			}
			here(t, s.cache)
			from.taken()
			for f, content := range files {
				s.wants(o.Path(), f, content)
			}
			if n, _ := from.taken(); n != 0 {
				t.Errorf("%d bytes were read of what is here", n)
			}
			offline, err := lazy.Open(lazy.Options{Origins: []lazy.Origin{from.origin(true)}, Cache: s.cache, Offline: true})
			if err != nil {
				t.Fatal(err)
			}
			if valid, err := offline.ValidPaths(t.Context(), []storepath.Path{o.Path()}); len(valid) != 1 || err != nil {
				t.Errorf("it is not valid without its origin: %v", err)
			}
			if n := s.store.Counts(); n.Fetched != 0 || n.Completed != 1 || n.EIO+n.Damaged+n.Refused+n.Lied != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

// What came is there for the next process, which compares it again.
func TestPartsOutliveTheirProcess(t *testing.T) {
	o, files := large(t, "o")
	from := indexed(t, "a", forms["zstd"], o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	s.wants(o.Path(), "bin/hello", files["bin/hello"])
	ob, node, err := s.find(t.Context(), o.Path(), "lib/big")
	if err != nil {
		t.Fatal(err)
	}
	read := func(ob interface {
		ReadAt(context.Context, uint32, []byte, int64) (int, error)
	}) {
		t.Helper()
		b := make([]byte, 10)
		if _, err := ob.ReadAt(t.Context(), node, b, 1_000_000); err != nil || string(b) != files["lib/big"][1_000_000:1_000_010] {
			t.Error(err)
		}
	}
	read(ob)
	s.settled()
	from.taken()
	if ob, _, err = s.find(t.Context(), o.Path(), "lib/big"); err != nil {
		t.Fatal(err)
	}
	s.wants(o.Path(), "bin/hello", files["bin/hello"])
	read(ob)
	if n, _ := from.taken(); n != 0 {
		t.Errorf("%d bytes were read again", n)
	}
	// Somebody spoils what is there.
	s.settled()
	spoiled := 0
	err = filepath.WalkDir(filepath.Join(s.cache.Dir(), "files"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		spoiled++
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(strings.Repeat("!", int(fi.Size()))), 0o600)
	})
	if err != nil || spoiled == 0 {
		t.Fatalf("%d files, %v", spoiled, err)
	}
	if ob, _, err = s.find(t.Context(), o.Path(), "lib/big"); err != nil {
		t.Fatal(err)
	}
	s.wants(o.Path(), "bin/hello", files["bin/hello"])
	read(ob)
}

func TestManyReadersOfParts(t *testing.T) {
	o, files := large(t, "o")
	from := indexed(t, "a", forms["zstd"], o)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	var all sync.WaitGroup
	for range 4 {
		for f, content := range files {
			all.Go(func() { s.wants(o.Path(), f, content) })
		}
	}
	all.Wait()
	if n, _ := from.taken(); n > int64(len(o.NAR))+100_000 {
		t.Errorf("%d bytes of a NAR of %d were read", n, len(o.NAR))
	}
	s.settled()
	here(t, s.cache)
}

// Nobody believes an index that no trusted key has signed; a key that signs one is enough.
func TestWhoseIndexIsBelieved(t *testing.T) {
	o, files := large(t, "o")
	ours, other := key(t, "ours-1"), key(t, "other-1")
	o = sign(t, o, ours)
	for name, c := range map[string]struct {
		signs    []trust.SecretKey
		believed bool
	}{"ours": {[]trust.SecretKey{ours}, true}, "another's": {[]trust.SecretKey{other}, false}, "nobody's": {nil, false}} {
		t.Run(name, func(t *testing.T) {
			form := forms["zstd"]
			form.Keys = c.signs
			from := indexed(t, "a", form, o)
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(false)}, Keys: keys(t, ours)}, lazy.CacheOptions{})
			s.wants(o.Path(), "bin/hello", files["bin/hello"])
			if n, _ := from.taken(); (n < 700_000) != c.believed {
				t.Errorf("%d bytes were read", n)
			}
		})
	}
}

// swapIndex puts another index into a cache.
func swapIndex(t *testing.T, from *counting, o storetest.Object, x *fileindex.Index, k ...trust.SecretKey) {
	t.Helper()
	data, err := x.Encode(dir, k...)
	if err != nil {
		t.Fatal(err)
	}
	if err := from.Put(t.Context(), o.Path().HashPart()+fileindex.Suffix, strings.NewReader(string(data)), objstore.PutOptions{Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
}

func indexAt(t *testing.T, from *counting, o storetest.Object) *fileindex.Index {
	t.Helper()
	signed, err := from.store.NarIndex(t.Context(), o.Path())
	if err != nil {
		t.Fatal(err)
	}
	x, err := signed.Decode()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A signed index that is wrong: not one byte gets out that it does not describe, and where the NAR is right the
// object can be had all the same.
func TestLyingIndex(t *testing.T) {
	o, files := large(t, "o")
	for name, lie := range map[string]func(t *testing.T, x, of *fileindex.Index){
		"frames at other places": func(t *testing.T, x, _ *fileindex.Index) { x.Frames[0].Size-- },
		"other sizes of frames": func(t *testing.T, x, _ *fileindex.Index) {
			x.Frames[0].Plain, x.Frames[1].Plain = x.Frames[1].Plain, x.Frames[0].Plain
		},
		"digests of other files": func(t *testing.T, x, of *fileindex.Index) { x.Contents = of.Contents },
	} {
		t.Run(name, func(t *testing.T) {
			from := indexed(t, "a", forms["zstd"], o)
			x := indexAt(t, from, o)
			spoiled := map[string]string{}
			for f, c := range files {
				spoiled[f] = c
			}
			spoiled["bin/hello"] = strings.ToUpper(files["bin/hello"])
			of := indexAt(t, indexed(t, "b", forms["zstd"], storetest.Tree(t, dir, "o", spoiled)), storetest.Tree(t, dir, "o", spoiled))
			lie(t, x, of)
			swapIndex(t, from, o, x)
			s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
			for f, content := range files {
				s.wants(o.Path(), f, content)
			}
			s.settled()
			here(t, s.cache)
		})
	}
}

// The digests are those of what comes, and what comes is not the object: that shows when all is there.
func TestIndexOfAnotherNAR(t *testing.T) {
	a := storetest.Tree(t, dir, "o", map[string]string{"bin/hello": "hello", "bin/other": "other"})
	b := storetest.Tree(t, dir, "o", map[string]string{"bin/hello": "HELLO", "bin/other": "OTHER"})
	form := forms["not compressed"]
	from, lying := indexed(t, "a", form, a), indexed(t, "b", form, b)
	x := indexAt(t, from, a)
	x.Contents = indexAt(t, lying, b).Contents
	swapIndex(t, from, a, x)
	// The origin gives the other NAR.
	from.Body = func(name string, r io.ReadCloser) io.ReadCloser {
		if !strings.HasPrefix(name, "nar/") {
			return r
		}
		part, _ := io.ReadAll(r)
		return body{strings.NewReader(strings.NewReplacer("hello", "HELLO", "other", "OTHER").Replace(string(part))), r}
	}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	for _, f := range []string{"bin/hello", "bin/other"} {
		if _, err := s.read(t.Context(), a.Path(), f); err != nil {
			t.Fatal(err)
		}
	}
	s.settled()
	if s.cache.Has(a.Path()) {
		t.Error("it is taken for the object")
	}
	if n := s.store.Counts().Lied; n != 1 {
		t.Errorf("counted %d times:\n%s", n, s.logged())
	}
	from.Body = nil
	s.wants(a.Path(), "bin/hello", "hello")
}

// A server without ranges is noticed by its first answer, and the object comes as a whole.
func TestOriginWithoutRanges(t *testing.T) {
	o, files := large(t, "o")
	from := indexed(t, "a", forms["zstd"], o)
	from.Objects.Store = noRanges{from.Objects.Store}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	for f, content := range files {
		s.wants(o.Path(), f, content)
	}
	if _, parts := from.taken(); parts > 1 {
		t.Errorf("%d NARs were read", parts)
	}
	if n := s.store.Counts(); n.Fetched != 1 || n.EIO != 0 {
		t.Errorf("%+v", n)
	}
}

type noRanges struct{ objstore.Store }

func (n noRanges) Get(ctx context.Context, name string, o objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	if o.OnlyPart {
		return nil, objstore.Info{}, objstore.ErrNoRanges
	}
	return n.Store.Get(ctx, name, o)
}

// Parts that break off, come spoilt or not at all: the next origin, or an error, and never wrong bytes.
func TestSpoiltParts(t *testing.T) {
	o, files := large(t, "o")
	for name, how := range map[string]func(io.ReadCloser) io.ReadCloser{"cut": cut, "flipped": flip, "broken": breaks} {
		for form, opts := range forms {
			t.Run(name+", "+form, func(t *testing.T) {
				bad := indexed(t, "bad", opts, o)
				bad.Body = func(name string, r io.ReadCloser) io.ReadCloser {
					if strings.HasPrefix(name, "nar/") {
						return how(r)
					}
					return r
				}
				s := newSetup(t, lazy.Options{Origins: []lazy.Origin{bad.origin(true)}}, lazy.CacheOptions{})
				if got, err := s.read(t.Context(), o.Path(), "lib/big"); err == nil || !strings.HasPrefix(files["lib/big"], got) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				good := indexed(t, "good", opts, o)
				s = newSetup(t, lazy.Options{Origins: []lazy.Origin{bad.origin(true), good.origin(true)}}, lazy.CacheOptions{})
				for f, content := range files {
					s.wants(o.Path(), f, content)
				}
			})
		}
	}
}

// A signal ends the waiting, and with the last who waits the transfer.
func TestInterruptedReadersOfParts(t *testing.T) {
	o, _ := large(t, "o")
	from := indexed(t, "hangs", forms["zstd"], o)
	begun := make(chan context.Context, 1)
	from.Before = func(ctx context.Context, op, name string) error {
		if strings.HasPrefix(name, "nar/") {
			begun <- ctx
			<-ctx.Done()
		}
		return ctx.Err()
	}
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{from.origin(true)}}, lazy.CacheOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.read(ctx, o.Path(), "bin/hello")
		done <- err
	}()
	transfer := <-begun
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-transfer.Done()
}

// Identical files have one place on disk, as long as they may be executed by the same.
func TestIdenticalFilesAreStoredOnce(t *testing.T) {
	same := noise(1, 200_000)
	a := storetest.Tree(t, dir, "a", map[string]string{"share/x": same, "share/y": same, "bin/x": same})
	b := storetest.Tree(t, dir, "b", map[string]string{"share/other": same})
	c := storetest.Tree(t, dir, "c", map[string]string{"share/small": "c", "share/z": same})
	plain := newOrigin(t, "plain", a, b)
	parts := indexed(t, "parts", forms["zstd"], c)
	s := newSetup(t, lazy.Options{Origins: []lazy.Origin{plain.trusted(), parts.origin(true)}}, lazy.CacheOptions{})
	s.wants(a.Path(), "share/x", same)
	s.wants(b.Path(), "share/other", same)
	s.settled()
	s.wants(c.Path(), "share/z", same)
	if n, _ := parts.taken(); n != 0 {
		t.Errorf("%d bytes were read of what another object had", n)
	}
	s.wants(c.Path(), "share/small", "c")
	s.settled()
	here(t, s.cache)
	inode := func(name string) uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(s.cache.Objects(), name), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	x := inode(a.Path().Base() + "/share/x")
	for _, other := range []string{a.Path().Base() + "/share/y", b.Path().Base() + "/share/other", c.Path().Base() + "/share/z"} {
		if inode(other) != x {
			t.Errorf("%s is another file", other)
		}
	}
	// Without the objects there are no files.
	if _, err := s.cache.Evict(t.Context(), lazy.EvictOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	left := 0
	_ = filepath.WalkDir(filepath.Join(s.cache.Dir(), "files"), func(_ string, d fs.DirEntry, _ error) error {
		if d.Type().IsRegular() {
			left++
		}
		return nil
	})
	if left != 0 {
		t.Errorf("%d files are left", left)
	}
}
