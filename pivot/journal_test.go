package pivot

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

func path(name string) storepath.Path {
	p, err := storepath.FromParts(nixhash.Of(nixhash.SHA256, name).Bytes()[:20], name)
	if err != nil {
		panic(err)
	}
	return p
}

// everything is a plan with something in each list.
func everything() *Plan {
	info := func(name string) *store.PathInfo {
		return &store.PathInfo{
			Path: path(name), Deriver: path(name + ".drv"), NarHash: nixhash.Of(nixhash.SHA256, name), NarSize: 120, Registered: 17,
			References: storepath.SortUnique([]storepath.Path{path(name), path("libc")}), Ultimate: true,
			Signatures: []store.Signature{"key:QUJD"},
			CA:         storepath.ContentAddress{Method: storepath.Recursive, Hash: nixhash.Of(nixhash.SHA256, name)},
		}
	}
	return &Plan{
		Old: []string{"old"}, Gone: []string{"gone"}, New: []string{"new", "newer"},
		Copies:     []Copy{{Info: info("copy"), From: "old"}},
		Duplicates: []Object{{Path: path("dup")}},
		Changed:    []Row{{Info: info("changed")}, {Info: &store.PathInfo{Path: path("bare"), NarHash: nixhash.Of(nixhash.SHA256, "")}}},
		Added:      []Row{{Info: info("x.drv"), Outputs: map[string]storepath.Path{"out": path("x")}}},
		Dropped:    []storepath.Path{path("dropped")}, Removed: []Object{{Path: path("removed")}},
		LostRoots: []LostRoot{{Link: "/state/gcroots/a", Path: path("a"), Removed: true}, {Link: "/home/result", Path: path("a")}},
		Whiteouts: []string{"white"}, Hiding: []string{"hiding"}, Parts: []string{"part"}, Bound: []string{".links"}, Merged: []string{"merged"},
	}
}

func encoded(t testing.TB, j *journal) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := j.encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestJournalComesBack(t *testing.T) {
	want := newJournal(storepath.DefaultDir, everything(), json.RawMessage(`{"lowers":[]}`))
	text := encoded(t, want)
	got, err := decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if want.size = int64(len(text)); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, c := range []struct {
		tail  string
		phase Phase
	}{
		{`{"phase":"staged"}` + "\n", Staged},
		{`{"phase":"staged"}` + "\n" + `{"phase":"committed"}` + "\n", Committed},
		{`{"phase":"staged"}` + "\n" + `{"phase":"committed"}`, Staged}, // torn
		{`{"phase":"sta`, Planned},
	} {
		got, err := decode(strings.NewReader(string(text) + c.tail))
		if err != nil || got.Phase != c.phase {
			t.Errorf("%q: %v, %v", c.tail, got, err)
		}
	}
}

func TestJournalRefused(t *testing.T) {
	text := string(encoded(t, newJournal(storepath.DefaultDir, everything(), nil)))
	lines := strings.SplitAfter(text, "\n")
	for what, bad := range map[string]string{
		"empty":            "",
		"no end":           strings.Join(lines[:len(lines)-2], ""),
		"a line is gone":   lines[0] + strings.Join(lines[2:], ""),
		"another version":  strings.Replace(text, `"version":1`, `"version":2`, 1),
		"another store":    strings.Replace(text, `"/nix/store"`, `"nix/store"`, 1),
		"a way out":        strings.Replace(text, `"aside":"part"`, `"aside":"../part"`, 1),
		"the layer itself": strings.Replace(text, `"aside":"part"`, `"aside":"."`, 1),
		"a relative root":  strings.Replace(text, `"unlink":"/state/`, `"unlink":"state/`, 1),
		"a root with dots": strings.Replace(text, `"unlink":"/state/`, `"unlink":"/state/../`, 1),
		"no path":          strings.Replace(text, `"drop":"`, `"drop":"x`, 1),
		"no hash":          strings.Replace(text, `"narHash":"sha256-`, `"narHash":"sha1-`, 1),
		"unknown word":     strings.Replace(text, `"white"`, `"black"`, 1),
		"unknown phase":    text + `{"phase":"over"}` + "\n",
		"no phase":         text + `{"white":"x"}` + "\n",
		"a long line":      `{"version":1,"id":"` + strings.Repeat("x", maxLine) + `"}` + "\n",
	} {
		if j, err := decode(strings.NewReader(bad)); !errors.Is(err, ErrJournal) {
			t.Errorf("%s: %+v, %v", what, j, err)
		}
	}
}

// FuzzJournal: whatever is read can be written, and comes back as it was; and nothing in it
// leads out of the layer.
func FuzzJournal(f *testing.F) {
	f.Add(encoded(f, newJournal(storepath.DefaultDir, everything(), json.RawMessage(`"x"`))))
	f.Fuzz(func(t *testing.T, text []byte) {
		j, err := decode(bytes.NewReader(text))
		if err != nil {
			if !errors.Is(err, ErrJournal) {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, list := range [][]string{j.aside, j.remove, j.white, j.unbind, j.opaque} {
			for _, name := range list {
				if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
					t.Fatalf("%q is no name of an entry", name)
				}
			}
		}
		phase := j.Phase
		again, err := decode(bytes.NewReader(encoded(t, j)))
		if err != nil {
			t.Fatal(err)
		}
		again.Phase, again.size = phase, j.size
		if !reflect.DeepEqual(again.put, j.put) || !reflect.DeepEqual(again.copies, j.copies) || !reflect.DeepEqual(again.drop, j.drop) {
			t.Fatalf("got  %+v\nwant %+v", again, j)
		}
	})
}
