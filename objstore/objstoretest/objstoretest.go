// Package objstoretest has what every object storage must pass.
//
//	func TestStore(t *testing.T) {
//		objstoretest.Run(t, func(t *testing.T) objstore.Store { … })
//	}
package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/strata-nix/strata/objstore"
)

// Run tries a storage. open gives an empty one for each test.
func Run(t *testing.T, open func(t *testing.T) objstore.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s objstore.Store)
	}{
		{"nothing", testNothing},
		{"put and get", testPutGet},
		{"parts", testParts},
		{"replace", testReplace},
		{"if absent", testIfAbsent},
		{"wrong size", testWrongSize},
		{"broken body", testBrokenBody},
		{"names", testNames},
		{"list", testList},
		{"delete", testDelete},
		{"stage", testStage},
		{"parallel", testParallel},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// Put stores a text.
func Put(t testing.TB, s objstore.Store, name, text string) {
	t.Helper()
	if err := s.Put(t.Context(), name, strings.NewReader(text), objstore.PutOptions{Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
}

// Get gives a text.
func Get(t testing.TB, s objstore.Store, name string) string {
	t.Helper()
	return get(t, s, name, objstore.GetOptions{})
}

func get(t testing.TB, s objstore.Store, name string, o objstore.GetOptions) string {
	t.Helper()
	r, _, err := s.Get(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading '%s': %v", name, err)
	}
	return string(b)
}

func absent(t *testing.T, s objstore.Store, name string) {
	t.Helper()
	if r, _, err := s.Get(t.Context(), name, objstore.GetOptions{}); !errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("get '%s': %v, %v", name, r, err)
	}
	if i, err := s.Stat(t.Context(), name); !errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("stat '%s': %+v, %v", name, i, err)
	}
}

func testNothing(t *testing.T, s objstore.Store) {
	absent(t, s, "x")
	absent(t, s, "nar/x")
	if names := list(t, s, ""); len(names) != 0 {
		t.Errorf("in an empty storage: %q", names)
	}
	if names := list(t, s, "nar"); len(names) != 0 {
		t.Errorf("in a directory that is not there: %q", names)
	}
	if err := s.Delete(t.Context(), "nar/x"); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
}

func testPutGet(t *testing.T, s objstore.Store) {
	large := strings.Repeat("0123456789abcdef", 100_000)
	for name, text := range map[string]string{
		"nix-cache-info": "StoreDir: /nix/store\n", "nar/large.nar": large, "log/empty": "",
		"a/b/c/d": "deep", "realisations/sha256:12!out.doi": "{}", "odd/a b%20+~=&#?;ü": "odd",
	} {
		for _, size := range []int64{int64(len(text)), objstore.Unknown} {
			if err := s.Put(t.Context(), name, io.MultiReader(strings.NewReader(text)), objstore.PutOptions{Size: size, ContentType: "text/plain"}); err != nil {
				t.Fatalf("put '%s': %v", name, err)
			}
			if got := Get(t, s, name); got != text {
				t.Errorf("'%s': %d bytes, want %d", name, len(got), len(text))
			}
			if i, err := s.Stat(t.Context(), name); err != nil || i.Size != int64(len(text)) || i.Name != name {
				t.Errorf("stat '%s': %+v, %v", name, i, err)
			}
		}
	}
	absent(t, s, "nar")
}

func testParts(t *testing.T, s objstore.Store) {
	const text = "0123456789"
	Put(t, s, "x", text)
	for _, c := range []struct {
		o    objstore.GetOptions
		want string
	}{
		{objstore.GetOptions{}, text},
		{objstore.GetOptions{Offset: 3}, "3456789"},
		{objstore.GetOptions{Length: 4}, "0123"},
		{objstore.GetOptions{Offset: 3, Length: 4}, "3456"},
		{objstore.GetOptions{Offset: 9, Length: 1}, "9"},
		{objstore.GetOptions{Offset: 5, Length: 100}, "56789"},
	} {
		if got := get(t, s, "x", c.o); got != c.want {
			t.Errorf("%+v: %q, want %q", c.o, got, c.want)
		}
		r, i, err := s.Get(t.Context(), "x", c.o)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		if i.Size != int64(len(text)) {
			t.Errorf("%+v: the whole has %d bytes", c.o, i.Size)
		}
	}
	if r, _, err := s.Get(t.Context(), "x", objstore.GetOptions{Offset: 10}); err == nil {
		b, err := io.ReadAll(r)
		r.Close()
		if err == nil {
			t.Errorf("behind the end: %q", b)
		}
	}
	i, err := s.Stat(t.Context(), "x")
	if err != nil || i.ETag == "" {
		return // has none
	}
	if got := get(t, s, "x", objstore.GetOptions{Offset: 3, ETag: i.ETag}); got != "3456789" {
		t.Errorf("with its ETag: %q", got)
	}
	Put(t, s, "x", "abcdefghij")
	if r, _, err := s.Get(t.Context(), "x", objstore.GetOptions{Offset: 3, ETag: i.ETag}); !errors.Is(err, objstore.ErrChanged) {
		t.Errorf("with the ETag of another: %v, %v", r, err)
	}
}

func testReplace(t *testing.T, s objstore.Store) {
	Put(t, s, "nar/x", "old and long")
	r, _, err := s.Get(t.Context(), "nar/x", objstore.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	Put(t, s, "nar/x", "new")
	if got := Get(t, s, "nar/x"); got != "new" {
		t.Errorf("%q", got)
	}
}

func testIfAbsent(t *testing.T, s objstore.Store) {
	for _, text := range []string{"first", "second"} {
		err := s.Put(t.Context(), "x", strings.NewReader(text), objstore.PutOptions{Size: int64(len(text)), IfAbsent: true})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := Get(t, s, "x"); got != "first" {
		t.Errorf("%q", got)
	}
}

func testWrongSize(t *testing.T, s objstore.Store) {
	for _, size := range []int64{0, 3, 5} {
		err := s.Put(t.Context(), "x", io.MultiReader(strings.NewReader("four")), objstore.PutOptions{Size: size})
		if !errors.Is(err, objstore.ErrSize) {
			t.Errorf("four bytes as %d: %v", size, err)
		}
		absent(t, s, "x")
	}
}

var errBroken = errors.New("broken")

func testBrokenBody(t *testing.T, s objstore.Store) {
	for _, size := range []int64{objstore.Unknown, 1_000_003} {
		body := io.MultiReader(bytes.NewReader(make([]byte, 1_000_000)), failing{})
		if err := s.Put(t.Context(), "nar/x", body, objstore.PutOptions{Size: size}); !errors.Is(err, errBroken) {
			t.Errorf("%v", err)
		}
		absent(t, s, "nar/x")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "nar/x", strings.NewReader("x"), objstore.PutOptions{Size: 1}); err == nil {
		t.Error("put although canceled")
	}
	absent(t, s, "nar/x")
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

func testNames(t *testing.T, s objstore.Store) {
	for _, name := range []string{"", "/etc/passwd", "../x", "nar/../../x", "nar/..", "..", ".", "./x", "nar//x", "nar/", "a\x00b", "a\nb", `a\b`, "\xff", strings.Repeat("x", 2000)} {
		_, _, getErr := s.Get(t.Context(), name, objstore.GetOptions{})
		_, statErr := s.Stat(t.Context(), name)
		putErr := s.Put(t.Context(), name, strings.NewReader("x"), objstore.PutOptions{Size: 1})
		deleteErr := s.Delete(t.Context(), name)
		for what, err := range map[string]error{"get": getErr, "stat": statErr, "put": putErr, "delete": deleteErr} {
			if !errors.Is(err, objstore.ErrName) {
				t.Errorf("%s %.20q: %v", what, name, err)
			}
		}
		if name == "" {
			continue
		}
		for _, err := range s.List(t.Context(), name) {
			if !errors.Is(err, objstore.ErrName) && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("list %.20q: %v", name, err)
			}
		}
	}
}

// list gives the sorted names in a directory.
func list(t *testing.T, s objstore.Store, dir string) (names []string) {
	t.Helper()
	for i, err := range s.List(t.Context(), dir) {
		if errors.Is(err, errors.ErrUnsupported) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return names
}

func testList(t *testing.T, s objstore.Store) {
	for _, err := range s.List(t.Context(), "") {
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
	}
	var want []string
	for i := range 12 {
		name := fmt.Sprintf("x%02d.narinfo", i)
		Put(t, s, name, "x")
		want = append(want, name)
	}
	Put(t, s, "nar/y", "y")
	Put(t, s, "nar/deep/z", "z")
	Put(t, s, "narrow", "w")
	if got := list(t, s, ""); !slices.Equal(got, append([]string{"narrow"}, want...)) {
		t.Errorf("top: %q", got)
	}
	if got := list(t, s, "nar"); !slices.Equal(got, []string{"nar/y"}) {
		t.Errorf("nar: %q", got)
	}
	for range s.List(t.Context(), "") {
		break // may be ended at any time
	}
}

func testDelete(t *testing.T, s objstore.Store) {
	Put(t, s, "nar/x", "x")
	if err := s.Delete(t.Context(), "nar/x"); err != nil {
		t.Fatal(err)
	}
	absent(t, s, "nar/x")
}

func testStage(t *testing.T, s objstore.Store) {
	for name, size := range map[string]int{"nar/small": 10, "nar/none": 0, "nar/large": 3 << 20} {
		data := bytes.Repeat([]byte{7}, size)
		for range 2 { // the second time it replaces
			st, err := objstore.Stage(t.Context(), s, "nar")
			if err != nil {
				t.Fatal(err)
			}
			for chunk := range slices.Chunk(data, 100_000) {
				if _, err := st.Write(chunk); err != nil {
					t.Fatal(err)
				}
			}
			absentUntil(t, s, name, data)
			if err := st.Commit(t.Context(), name, objstore.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			st.Abort()
			if got := Get(t, s, name); got != string(data) {
				t.Errorf("'%s': %d bytes, want %d", name, len(got), len(data))
			}
		}
	}
	st, err := objstore.Stage(t.Context(), s, "nar")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	st.Abort()
	if got := list(t, s, "nar"); len(got) != 0 && len(got) != 3 {
		t.Errorf("after all: %q", got)
	}
}

// absentUntil wants the object not there, or as it was.
func absentUntil(t *testing.T, s objstore.Store, name string, old []byte) {
	t.Helper()
	if i, err := s.Stat(t.Context(), name); err == nil && i.Size != int64(len(old)) || err != nil && !errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("'%s' before it was committed: %+v, %v", name, i, err)
	}
}

// testParallel replaces one object from many sides while it is read: it is always
// whole.
func testParallel(t *testing.T, s objstore.Store) {
	const size = 300_000
	text := func(i int) string { return strings.Repeat(string(rune('a'+i)), size) }
	Put(t, s, "nar/x", text(0))
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			err := s.Put(t.Context(), "nar/x", strings.NewReader(text(i)), objstore.PutOptions{Size: size})
			if err != nil {
				t.Errorf("put: %v", err)
			}
		})
		wg.Go(func() {
			r, _, err := s.Get(t.Context(), "nar/x", objstore.GetOptions{})
			if err != nil {
				t.Errorf("get: %v", err)
				return
			}
			defer r.Close()
			b, err := io.ReadAll(r)
			if err != nil || len(b) != size || strings.Trim(string(b), string(b[:1])) != "" {
				t.Errorf("%d bytes that are not of one object, %v", len(b), err)
			}
		})
	}
	wg.Wait()
}
