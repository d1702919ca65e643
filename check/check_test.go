package check

import (
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/storepath"
)

const aHash = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q"

// Every class has words for people, and the document about the format knows all codes.
func TestClassesAreDescribed(t *testing.T) {
	doc, err := os.ReadFile("../doc/formats/check-json.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Code]bool{}
	for _, c := range Classes() {
		if seen[c.Code] {
			t.Errorf("%s is there twice", c.Code)
		}
		seen[c.Code] = true
		if c.Title == "" || !strings.HasSuffix(c.Consequence, ".") || strings.HasSuffix(c.Repair, ".") {
			t.Errorf("%s: %q, %q, %q", c.Code, c.Title, c.Consequence, c.Repair)
		}
		if !strings.Contains(string(doc), "`"+string(c.Code)+"`") {
			t.Errorf("%s is not described", c.Code)
		}
		ways := 0
		for _, there := range []bool{c.whole != nil, c.line != nil, c.object != nil} {
			if there {
				ways++
			}
		}
		if ways > 1 {
			t.Errorf("%s looks in %d ways", c.Code, ways)
		}
	}
}

func TestKindsOfNames(t *testing.T) {
	for name, want := range map[string]nameKind{
		aHash + "-x": objectName, aHash + "-x.lock": lockName, aHash + "-x.drv.chroot": chrootName, aHash + "-x.lock.lock": lockName,
		".links": ignoredName, ".nfs000001": ignoredName, gc.TempName: temporaryName, "tmp-1-2": temporaryName, ".tmp-link-1-2": temporaryName,
		"00000000000000000000000000000000-strata-tmp-link-7": temporaryName, "00000000000000000000000000000000-strata-tmp-link-": objectName,
		".strata-trash-X": trashName, ".strata-refresh-X": trashName, "README": foreignName, "\xff": foreignName, ".links2": foreignName,
		aHash: foreignName, aHash + "-": foreignName, aHash + "-a\nb": foreignName, strings.ToUpper(aHash) + "-x": foreignName,
	} {
		if kind, _ := kindOf(name); kind != want {
			t.Errorf("%q is of kind %d, not %d", name, kind, want)
		}
	}
	for name, want := range map[string]string{"a b": "a b", "ä": "ä", "\xff": `"\xff"`, "a\nb": `"a\nb"`, "\x1b[31m": `"\x1b[31m"`} {
		if got := visible(name); got != want {
			t.Errorf("%q is shown as %s", name, got)
		}
	}
}

func all(t *testing.T, e *entries) (out []string) {
	t.Helper()
	for {
		x, ok, err := e.next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		out = append(out, x.name)
	}
}

// A directory is sorted the same way in memory and in many small files.
func TestEntriesAreSorted(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 500 {
		name := fmt.Sprintf("%x-%d", rand.Uint64(), i)
		switch i % 50 {
		case 0:
			name = strings.Repeat("é", 100) + fmt.Sprint(i)
		case 1:
			name = "\xff\n" + fmt.Sprint(i)
		case 2:
			name = fmt.Sprint(i % 10)
			if i > 10 {
				continue
			}
		}
		want = append(want, name)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	for _, limit := range []int{1, 200, 5000, runBytes} {
		e, err := readEntries(t.Context(), dir, limit)
		if err != nil {
			t.Fatal(err)
		}
		if got := all(t, e); !slices.Equal(got, want) {
			t.Errorf("with %d bytes: %d names of %d, or in another order", limit, len(got), len(want))
		}
		e.close()
	}
	if _, err := readEntries(t.Context(), filepath.Join(dir, "absent"), 1); !os.IsNotExist(err) && err == nil {
		t.Error("a directory that is not there was read")
	}
}

type edges [][]int32

func (e edges) Len() int                 { return len(e) }
func (e edges) References(i int) []int32 { return e[i] }

func TestPostorderPutsReferencesFirst(t *testing.T) {
	g := edges{{1, 2}, {2, 3}, {}, {3}, {0}, {}} // 3 refers to itself
	var got []int32
	for n := range postorder(g, []int32{0, 4, 2}) {
		got = append(got, n)
	}
	if !slices.Equal(got, []int32{2, 3, 1, 0, 4}) {
		t.Errorf("%v", got)
	}
	deep := make(edges, 100_000)
	for i := range len(deep) - 1 {
		deep[i] = []int32{int32(i + 1)}
	}
	n := 0
	for range iter.Seq[int32](postorder(deep, []int32{0})) {
		n++
	}
	if n != len(deep) {
		t.Errorf("%d of a deep graph", n)
	}
}

// Store paths are found in what comes in pieces of any size.
func TestMentionsInPieces(t *testing.T) {
	other := strings.Repeat("0", 32)
	text := "x/nix/store/" + aHash + "-a:" + other + "-b /nix/store/" + strings.Repeat("e", 32) + "-c " + "1" + aHash + "-d" + strings.Repeat("z", 100) + "-"
	for size := 1; size < len(text); size++ {
		m := &mentions{dir: "/nix/store/", found: map[string]bool{}}
		for r := strings.NewReader(text); r.Len() > 0; {
			if _, err := io.CopyN(m, r, int64(min(size, r.Len()))); err != nil {
				t.Fatal(err)
			}
		}
		if in, ok := m.found[aHash]; !ok || !in || len(m.found) != 3 {
			t.Fatalf("in pieces of %d: %v", size, m.found)
		}
		if in, ok := m.found[other]; !ok || in {
			t.Errorf("in pieces of %d: %v", size, m.found)
		}
	}
}

func TestWatermark(t *testing.T) {
	row := func(i int) nixdb.Row {
		p, err := storepath.ParseBase(fmt.Sprintf("%s-%d", aHash, i))
		if err != nil {
			t.Fatal(err)
		}
		return nixdb.Row{Path: p, NarSize: 10}
	}
	var w watermark
	var last string
	var sum amount
	for _, step := range []struct {
		n    int
		last string
	}{{1, ""}, {0, "1"}, {3, "1"}, {4, "1"}, {2, "4"}, {5, "5"}} {
		w.finish(step.n, row(step.n), func(p storepath.Path, more amount) {
			last = p.Name()
			sum.objects += more.objects
			sum.bytes += more.bytes
		})
		if last != step.last {
			t.Errorf("after %d: %q instead of %q", step.n, last, step.last)
		}
	}
	if sum != (amount{6, 60}) {
		t.Errorf("%+v", sum)
	}
}

func TestSelectLayers(t *testing.T) {
	layers := []Layer{{Name: "upper"}, {Name: "lower 1 (local?root=/a)"}, {Name: "base"}}
	for want, got := range map[string]string{"0": "100", "upper": "100", "lower 1": "010", "base": "001", "2": "001"} {
		sel, err := selectLayers(layers, []string{want})
		if err != nil {
			t.Error(err)
		}
		text := ""
		for _, s := range sel {
			text += map[bool]string{true: "1", false: "0"}[s]
		}
		if text != got {
			t.Errorf("%s selects %s", want, text)
		}
	}
	for _, bad := range []string{"3", "", "low", "-1", "lower"} {
		if _, err := selectLayers(layers, []string{bad}); err == nil {
			t.Errorf("%q selects a layer", bad)
		}
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"version":1,"storeDir":"/nix/store","started":"2026-01-02T03:04:05Z","layers":{"upper":{"after":"` + aHash + `-x","objects":3,"bytes":4,"suspects":["` + aHash + `-w","` + aHash + `-y"]}}}`))
	f.Add([]byte(`{"version":1,"storeDir":"/nix/store","layers":{"a":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseJournal(data, storepath.DefaultDir)
		if err != nil {
			return
		}
		j := &journal{state: *s}
		for name := range s.Layers {
			after, _, done := j.position(name)
			if after.IsZero() != (s.Layers[name].After == "") {
				t.Errorf("%q is no position", s.Layers[name].After)
			}
			n := 0
			for _, text := range s.Layers[name].Suspects {
				p, err := storepath.ParseBase(text)
				if err != nil {
					t.Errorf("%q is no suspect", text)
				}
				if done || !after.IsZero() && storepath.Compare(p, after) <= 0 {
					n++ // the others come anyway
				}
			}
			if got := j.suspects(name); len(got) != n {
				t.Errorf("%d suspects of %d", len(got), n)
			}
		}
	})
}

// A journal that somebody else put there is not followed, and a long one not read.
func TestJournalIsNotTrusted(t *testing.T) {
	dir := testenv.Scratch(t)
	path := filepath.Join(dir, journalFile)
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if _, err := readJournal(path, storepath.DefaultDir); err == nil {
		t.Error("a link was followed")
	}
	_ = os.Remove(path)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readJournal(path, storepath.DefaultDir); err == nil {
		t.Error("a FIFO was read")
	}
}
