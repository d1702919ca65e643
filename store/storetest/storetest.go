package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Options say how a store is tried.
type Options struct {
	// Open gives an empty store that takes objects without signatures when it is
	// told to. It is called for each test; t.Cleanup closes it.
	Open func(t *testing.T) store.Store
	// Without names the tests of abilities that this store has not got, as they are
	// in the table.
	Without []string
}

// test is a behaviour of stores, and the ability that it takes.
type test struct {
	name string
	has  func(store.Store) bool
	run  func(t *testing.T, s store.Store)
}

func has[T any](s store.Store) bool {
	_, ok := store.As[T](s)
	return ok
}

func always(store.Store) bool { return true }

var tests = []test{
	{"empty", always, testEmpty},
	{"add", has[store.Adder], testAdd},
	{"add twice", has[store.Adder], testAddTwice},
	{"refuse lies", has[store.Adder], testLies},
	{"refuse dangling", has[store.Adder], testDangling},
	{"refuse truncated", has[store.Adder], testTruncated},
	{"self reference", has[store.Adder], testSelfReference},
	{"add multiple", has[store.MultiAdder], testAddMultiple},
	{"import", has[store.Importer], testImport},
	{"import next offers", has[store.Importer], testImportNextOffers},
	{"import what can be had", has[store.Importer], testImportPart},
	{"import other references", has[store.Importer], testImportOtherReferences},
	{"import circles", has[store.Importer], testImportCircle},
	{"import canceled", has[store.Importer], testImportCanceled},
	{"add dump", has[store.DumpAdder], testAddDump},
	{"list", has[store.Lister], testList},
	{"referrers", has[store.ReferrerQuerier], testReferrers},
	{"hash part", has[store.HashPartQuerier], testHashPart},
	{"signatures", has[store.SignatureAdder], testSignatures},
	{"delete", has[store.Collector], testDelete},
	{"temporary roots", has[store.TempRooter], testTempRoots},
	{"canceled", always, testCanceled},
	{"parallel", has[store.Adder], testParallel},
}

// Run tries a store.
func Run(t *testing.T, o Options) {
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			s := o.Open(t)
			without := slices.Contains(o.Without, c.name)
			if c.has(s) == without {
				t.Fatalf("the store's ability is %v, Options.Without says %v", c.has(s), without)
			}
			if !without {
				c.run(t, s)
			}
		})
	}
}

// trusting is how tests add: nothing is signed.
var trusting = store.AddOptions{NoCheckSigs: true}

func add(t *testing.T, s store.Store, objects ...Object) {
	t.Helper()
	a, err := store.Need[store.Adder](s, "add")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if err := a.Add(t.Context(), o.Info, o.Reader(), trusting); err != nil {
			t.Fatalf("adding %s: %v", o.Path(), err)
		}
	}
}

func valid(t *testing.T, s store.Store, paths ...storepath.Path) []storepath.Path {
	t.Helper()
	v, err := s.ValidPaths(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// same compares what a store says with what was added.
func same(t *testing.T, s store.Store, o Object) {
	t.Helper()
	got, err := store.PathInfoOf(t.Context(), s, o.Path())
	if err != nil {
		t.Fatal(err)
	}
	want := o.Info
	if got.Path != want.Path || got.NarHash != want.NarHash || got.NarSize != want.NarSize || got.CA != want.CA ||
		got.Deriver != want.Deriver || !slices.Equal(got.References, want.References) || !slices.Equal(got.Signatures, want.Signatures) {
		t.Errorf("path info of %s:\n got %+v\nwant %+v", o.Path(), got, want)
	}
	n, err := store.Need[store.NarSource](s, "narFromPath")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := n.NarFromPath(t.Context(), o.Path(), &b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), o.NAR) {
		t.Errorf("the NAR of %s has %d bytes, not those %d that were added", o.Path(), b.Len(), len(o.NAR))
	}
}

func testEmpty(t *testing.T, s store.Store) {
	o := File(t, s.Dir(), "nobody", "x")
	if v := valid(t, s, o.Path()); len(v) != 0 {
		t.Errorf("valid in an empty store: %v", v)
	}
	infos, err := s.PathInfos(t.Context(), []storepath.Path{o.Path()})
	if err != nil || len(infos) != 1 || infos[0] != nil {
		t.Errorf("path infos: %v, %v", infos, err)
	}
	if v, err := s.ValidPaths(t.Context(), nil); err != nil || len(v) != 0 {
		t.Errorf("no paths: %v, %v", v, err)
	}
	if n, ok := store.As[store.NarSource](s); ok {
		if err := n.NarFromPath(t.Context(), o.Path(), io.Discard); !errors.Is(err, store.ErrNotValid) {
			t.Errorf("NAR of an invalid path: %v", err)
		}
	}
}

func testAdd(t *testing.T, s store.Store) {
	chain := Chain(t, s.Dir(), 3)
	tree := Tree(t, s.Dir(), "tree", map[string]string{"bin/run": "#!/bin/sh\n", "share/doc/a": "", "share/doc/b": "b"}, chain[2].Path(), chain[0].Path()).Plain(t, s.Dir(), false)
	tree.Info.Deriver, _ = storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-tree.drv")
	tree.Info.Signatures = []store.Signature{"a:AAAA", "b:BBBB"}
	add(t, s, append(chain, tree)...)
	for _, o := range append(chain, tree) {
		same(t, s, o)
	}
	nobody := File(t, s.Dir(), "nobody", "x")
	asked := []storepath.Path{tree.Path(), nobody.Path(), chain[0].Path()}
	if v := valid(t, s, asked...); !slices.Equal(v, []storepath.Path{tree.Path(), chain[0].Path()}) {
		t.Errorf("valid among %v: %v", asked, v)
	}
}

func testAddTwice(t *testing.T, s store.Store) {
	o := File(t, s.Dir(), "once", "x")
	add(t, s, o, o)
	same(t, s, o)
	// What is valid stays as it is, whatever somebody says of it.
	a, _ := store.As[store.Adder](s)
	lie := Object{Info: o.Info.Clone(), NAR: o.NAR}
	lie.Info.NarHash = nixhash.Of(nixhash.SHA256, "lie")
	if err := a.Add(t.Context(), lie.Info, lie.Reader(), trusting); err != nil {
		t.Errorf("adding what is valid: %v", err)
	}
	same(t, s, o)
}

// testLies adds objects that are not what their infos say.
func testLies(t *testing.T, s store.Store) {
	a, _ := store.As[store.Adder](s)
	good := Tree(t, s.Dir(), "good", map[string]string{"a": "1"})
	for name, change := range map[string]func(o *Object){
		"hash":     func(o *Object) { o.Info.NarHash = nixhash.Of(nixhash.SHA256, "other") },
		"size":     func(o *Object) { o.Info.NarSize++ },
		"too long": func(o *Object) { o.Info.NarSize -= 8 },
		"contents": func(o *Object) { o.NAR = bytes.Replace(o.NAR, []byte("1"), []byte("2"), 1) },
		"path": func(o *Object) {
			o.Info.Path = File(t, s.Dir(), "good", "another").Path()
		},
		"content address": func(o *Object) {
			*o = o.Plain(t, s.Dir(), false)
			o.Info.CA = storepath.ContentAddress{Method: storepath.Recursive, Hash: nixhash.Of(nixhash.SHA256, "x")}
		},
	} {
		o := Object{Info: good.Info.Clone(), NAR: slices.Clone(good.NAR)}
		change(&o)
		if err := a.Add(t.Context(), o.Info, o.Reader(), trusting); err == nil {
			t.Errorf("%s: a lie was believed", name)
		} else if len(valid(t, s, o.Path())) != 0 {
			t.Errorf("%s: refused (%v), and valid", name, err)
		}
	}
	add(t, s, good)
	same(t, s, good)
}

func testDangling(t *testing.T, s store.Store) {
	chain := Chain(t, s.Dir(), 2)
	a, _ := store.As[store.Adder](s)
	if err := a.Add(t.Context(), chain[1].Info, chain[1].Reader(), trusting); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("with an invalid reference: %v", err)
	}
	if len(valid(t, s, chain[1].Path())) != 0 {
		t.Error("refused, and valid")
	}
	add(t, s, chain...)
}

func testTruncated(t *testing.T, s store.Store) {
	a, _ := store.As[store.Adder](s)
	o := Tree(t, s.Dir(), "cut", map[string]string{"a": "1", "b/c": "2"})
	for n := 0; n < len(o.NAR); n += 40 {
		if err := a.Add(t.Context(), o.Info, bytes.NewReader(o.NAR[:n]), trusting); err == nil {
			t.Fatalf("%d of %d bytes were enough", n, len(o.NAR))
		}
		if len(valid(t, s, o.Path())) != 0 {
			t.Fatalf("valid after %d of %d bytes", n, len(o.NAR))
		}
	}
	add(t, s, o)
	same(t, s, o)
}

func testSelfReference(t *testing.T, s store.Store) {
	o := File(t, s.Dir(), "self", "x").Plain(t, s.Dir(), true)
	add(t, s, o)
	same(t, s, o)
}

func testAddMultiple(t *testing.T, s store.Store) {
	chain := Chain(t, s.Dir(), 300)
	if err := store.AddMultiple(t.Context(), s, &Source{Objects: chain}, trusting); err != nil {
		t.Fatal(err)
	}
	for _, o := range chain {
		same(t, s, o)
	}
	// A bad one in the middle: those before it may be valid, none after.
	more := Chain(t, s.Dir(), 310)[300:]
	more[5].Info = more[5].Info.Clone()
	more[5].Info.NarHash = nixhash.Of(nixhash.SHA256, "other")
	if err := store.AddMultiple(t.Context(), s, &Source{Objects: more}, trusting); err == nil {
		t.Fatal("a lie was believed")
	}
	for _, o := range more[5:] {
		if len(valid(t, s, o.Path())) != 0 {
			t.Errorf("%s is valid", o.Path())
		}
	}
}

func testAddDump(t *testing.T, s store.Store) {
	a, _ := store.As[store.DumpAdder](s)
	dep := File(t, s.Dir(), "dep", "d")
	add(t, s, dep)
	text := "hello " + s.Dir().Print(dep.Path())
	asNAR := File(t, s.Dir(), "x", text).NAR
	large := string(bytes.Repeat([]byte("0123456789abcdef"), 200_000))
	for _, c := range []struct {
		name string
		d    store.Dump
		ca   storepath.ContentAddress
		nar  []byte
	}{
		{"text", store.Dump{Spec: storepath.Spec{Method: storepath.Text, Algorithm: nixhash.SHA256}, References: []storepath.Path{dep.Path()}, Contents: bytes.NewReader([]byte(text))},
			storepath.ContentAddress{Method: storepath.Text, Hash: nixhash.Of(nixhash.SHA256, text)}, asNAR},
		{"flat", store.Dump{Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA1}, Contents: bytes.NewReader([]byte(text))},
			storepath.ContentAddress{Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA1, text)}, asNAR},
		{"flat as NAR", store.Dump{Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}, NAR: true, Contents: bytes.NewReader(asNAR)},
			storepath.ContentAddress{Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, text)}, asNAR},
		{"recursive", store.Dump{Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}, NAR: true, References: []storepath.Path{dep.Path()}, Contents: bytes.NewReader(asNAR)},
			storepath.ContentAddress{Method: storepath.Recursive, Hash: nixhash.Of(nixhash.SHA256, string(asNAR))}, asNAR},
		{"recursive sha512", store.Dump{Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA512}, NAR: true, Contents: bytes.NewReader(asNAR)},
			storepath.ContentAddress{Method: storepath.Recursive, Hash: nixhash.Of(nixhash.SHA512, string(asNAR))}, asNAR},
		{"large flat", store.Dump{Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}, Contents: bytes.NewReader([]byte(large))},
			storepath.ContentAddress{Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, large)}, File(t, s.Dir(), "x", large).NAR},
	} {
		c.d.Name = "dump-" + string(bytes.ReplaceAll([]byte(c.name), []byte(" "), []byte("-")))
		want, err := s.Dir().Make(c.d.Name, c.ca, storepath.References{Others: c.d.References})
		if err != nil {
			t.Fatal(err)
		}
		info, err := a.AddDump(t.Context(), c.d, store.AddOptions{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if info.Path != want || info.CA != c.ca {
			t.Errorf("%s: %s (%s), want %s (%s)", c.name, info.Path, info.CA, want, c.ca)
		}
		same(t, s, Object{Info: &store.PathInfo{Path: want, CA: c.ca, References: c.d.References, NarHash: nixhash.Of(nixhash.SHA256, string(c.nar)), NarSize: uint64(len(c.nar))}, NAR: c.nar})
	}
	if _, err := a.AddDump(t.Context(), store.Dump{Name: "bad/name", Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}, Contents: bytes.NewReader(nil)}, store.AddOptions{}); err == nil {
		t.Error("a name with a slash was taken")
	}
	broken := store.Dump{Name: "broken", Spec: storepath.Spec{Method: storepath.Recursive, Algorithm: nixhash.SHA256}, NAR: true, Contents: bytes.NewReader(asNAR[:100])}
	if _, err := a.AddDump(t.Context(), broken, store.AddOptions{}); err == nil {
		t.Error("half a NAR was taken")
	}
}

func testList(t *testing.T, s store.Store) {
	chain := Chain(t, s.Dir(), 20)
	add(t, s, chain...)
	l, _ := store.As[store.Lister](s)
	got := storepath.Set{}
	for p, err := range l.AllPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !got.Add(p) {
			t.Errorf("%s is listed twice", p)
		}
	}
	if len(got) != len(chain) {
		t.Errorf("%d paths, want %d", len(got), len(chain))
	}
	if il, ok := store.As[store.InfoLister](s); ok {
		n := 0
		for info, err := range il.AllPathInfos(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if !got.Has(info.Path) || info.NarSize == 0 {
				t.Errorf("listed: %+v", info)
			}
			n++
		}
		if n != len(chain) {
			t.Errorf("%d infos, want %d", n, len(chain))
		}
	}
}

func testReferrers(t *testing.T, s store.Store) {
	a := File(t, s.Dir(), "a", "a")
	b, c := File(t, s.Dir(), "b", "b", a.Path()), File(t, s.Dir(), "c", "c", a.Path())
	add(t, s, a, b, c)
	q, _ := store.As[store.ReferrerQuerier](s)
	nobody := File(t, s.Dir(), "nobody", "x")
	got, err := q.Referrers(t.Context(), []storepath.Path{a.Path(), b.Path(), nobody.Path()})
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	if !slices.Equal(got[0], storepath.SortUnique([]storepath.Path{b.Path(), c.Path()})) || len(got[1])+len(got[2]) != 0 {
		t.Errorf("referrers: %v", got)
	}
}

func testHashPart(t *testing.T, s store.Store) {
	o := File(t, s.Dir(), "a", "a")
	add(t, s, o)
	q, _ := store.As[store.HashPartQuerier](s)
	if p, err := q.PathFromHashPart(t.Context(), o.Path().HashPart()); err != nil || p != o.Path() {
		t.Errorf("%v, %v", p, err)
	}
	if p, err := q.PathFromHashPart(t.Context(), "00000000000000000000000000000000"); err != nil || !p.IsZero() {
		t.Errorf("nobody: %v, %v", p, err)
	}
	for _, bad := range []string{"", "short", "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"} {
		if p, err := q.PathFromHashPart(t.Context(), bad); err == nil && !p.IsZero() {
			t.Errorf("%q: %v", bad, p)
		}
	}
}

func testSignatures(t *testing.T, s store.Store) {
	o := File(t, s.Dir(), "a", "a")
	add(t, s, o)
	q, _ := store.As[store.SignatureAdder](s)
	for _, sigs := range [][]store.Signature{{"k2:BBBB"}, {"k1:AAAA", "k2:BBBB"}} {
		if err := q.AddSignatures(t.Context(), o.Path(), sigs); err != nil {
			t.Fatal(err)
		}
	}
	o.Info = o.Info.Clone()
	o.Info.Signatures = []store.Signature{"k1:AAAA", "k2:BBBB"}
	same(t, s, o)
	if err := q.AddSignatures(t.Context(), File(t, s.Dir(), "nobody", "x").Path(), []store.Signature{"k:AAAA"}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("of an invalid path: %v", err)
	}
}

func testDelete(t *testing.T, s store.Store) {
	chain := Chain(t, s.Dir(), 3)
	add(t, s, chain...)
	c, _ := store.As[store.Collector](s)
	del := func(paths ...storepath.Path) error {
		_, err := c.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteSpecific, Paths: paths})
		return err
	}
	if err := del(chain[0].Path()); err == nil {
		t.Error("what something refers to was deleted")
	}
	if v := valid(t, s, chain[0].Path(), chain[2].Path()); len(v) != 2 {
		t.Errorf("valid after that: %v", v)
	}
	if err := del(chain[2].Path()); err != nil {
		t.Errorf("what nothing refers to: %v", err)
	}
	if v := valid(t, s, chain[0].Path(), chain[1].Path(), chain[2].Path()); len(v) != 2 {
		t.Errorf("valid after that: %v", v)
	}
	res, err := c.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
	if err != nil || len(res.Paths) != 2 || res.BytesFreed == 0 {
		t.Errorf("the rest: %+v, %v", res, err)
	}
	if v := valid(t, s, chain[0].Path(), chain[1].Path()); len(v) != 0 {
		t.Errorf("valid after all: %v", v)
	}
	add(t, s, chain...)
}

func testTempRoots(t *testing.T, s store.Store) {
	chain := Chain(t, s.Dir(), 3)
	r, _ := store.As[store.TempRooter](s)
	c, err := store.Need[store.Collector](s, "collect")
	if err != nil {
		t.Fatal(err)
	}
	add(t, s, chain...)
	roots := r.NewTempRoots()
	if err := roots.Add(t.Context(), []storepath.Path{chain[1].Path()}); err != nil {
		t.Fatal(err)
	}
	all := store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit}
	if _, err := c.CollectGarbage(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if v := valid(t, s, chain[0].Path(), chain[1].Path(), chain[2].Path()); len(v) != 2 {
		t.Errorf("with a root on the second: %v", v)
	}
	if err := roots.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CollectGarbage(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if v := valid(t, s, chain[0].Path(), chain[1].Path()); len(v) != 0 {
		t.Errorf("without it: %v", v)
	}
}

func testCanceled(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a, ok := store.As[store.Adder](s); ok {
		o := File(t, s.Dir(), "late", "x")
		if err := a.Add(ctx, o.Info, o.Reader(), trusting); err == nil {
			t.Error("added although canceled")
		}
		if v := valid(t, s, o.Path()); len(v) != 0 {
			t.Error("canceled, and valid")
		}
	}
}

// testParallel adds the same and other objects from many sides.
func testParallel(t *testing.T, s store.Store) {
	a, _ := store.As[store.Adder](s)
	shared := Tree(t, s.Dir(), "shared", map[string]string{"bin/x": "x", "y": string(bytes.Repeat([]byte("y"), 100_000))})
	const n = 8
	errs := make(chan error)
	for i := range n {
		own := File(t, s.Dir(), "own", string(rune('a'+i)))
		go func() {
			err := a.Add(context.Background(), shared.Info, shared.Reader(), trusting)
			errs <- errors.Join(err, a.Add(context.Background(), own.Info, own.Reader(), trusting))
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	same(t, s, shared)
}
