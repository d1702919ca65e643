package stack

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// at opens a directory as a lower of some name.
func (w *world) at(t *testing.T, name, dir string) PresentLower {
	t.Helper()
	s, err := local.Open(t.Context(), local.Options{Root: w.path(dir), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return PresentLower{RunLower: RunLower{Name: name, Kind: KindDirectory, Given: w.path(dir), Dir: s.RealDir()}, Store: s}
}

func madeOf(t *testing.T, lowers ...PresentLower) *Made {
	t.Helper()
	ids, err := identities(t.Context(), lowers)
	if err != nil {
		t.Fatal(err)
	}
	return &Made{Version: madeVersion, StoreDir: "/nix/store", Lowers: ids}
}

// What became of a lower is told by what survives remounts and restarts.
func TestWhatBecameOfLowers(t *testing.T) {
	w := newWorld(t)
	var many []storetest.Object
	for i := range 50 {
		many = append(many, object(t, fmt.Sprint("object", i)))
	}
	w.lower(t, "base", many...)
	w.lower(t, "team", object(t, "team"))
	was := madeOf(t, w.at(t, "base", "base"), w.at(t, "team", "team"))
	check := func(what string, want string, harmless bool, now ...PresentLower) {
		t.Helper()
		cs, err := was.Compare(t.Context(), now)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range cs {
			got = append(got, c.Name+" "+string(c.Kind))
		}
		if strings.Join(got, ", ") != want || cs.Harmless() != harmless {
			t.Errorf("%s: %v, harmless: %t", what, cs, cs.Harmless())
		}
	}
	check("nothing", "base same, team same", true, w.at(t, "base", "base"), w.at(t, "team", "team"))
	check("other names", "x same, y same", true, w.at(t, "x", "base"), w.at(t, "y", "team"))
	check("another order", "team same, base same", false, w.at(t, "team", "team"), w.at(t, "base", "base"))
	check("one fewer", "base same, team gone", false, w.at(t, "base", "base"))
	w.lower(t, "more", object(t, "more"))
	check("one more", "base same, team same, more added", false, w.at(t, "base", "base"), w.at(t, "team", "team"), w.at(t, "more", "more"))
	w.lower(t, "base", object(t, "grown"))
	check("grown", "base grew, team same", true, w.at(t, "base", "base"), w.at(t, "team", "team"))
	check("another under the name", "base replaced, team same", false, w.at(t, "base", "more"), w.at(t, "team", "team"))

	// The same directory, whose store was made anew.
	db := w.path("team/nix/var/nix/db")
	if err := os.RemoveAll(db); err != nil {
		t.Fatal(err)
	}
	w.lower(t, "team", object(t, "x"), object(t, "y"))
	check("made anew", "base grew, team replaced", false, w.at(t, "base", "base"), w.at(t, "team", "team"))
	if err := os.Truncate(filepath.Join(db, "db.sqlite"), 200); err != nil {
		t.Fatal(err)
	}
	broken := w.at(t, "base", "base")
	broken.Dir = w.path("nowhere")
	check("not to be told", "base unknown, team gone", false, broken)
}

func TestLostByCollection(t *testing.T) {
	w := newWorld(t)
	var all []storetest.Object
	for i := range 20 {
		all = append(all, object(t, fmt.Sprint("object", i)))
	}
	w.lower(t, "base", all...)
	was := madeOf(t, w.at(t, "base", "base"))
	s, err := local.Open(t.Context(), local.Options{Root: w.path("base")})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all[:5] {
		if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Action: store.DeleteSpecific, Paths: pathsOf(o), MaxFreed: store.NoLimit}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cs, err := was.Compare(t.Context(), []PresentLower{w.at(t, "base", "base")})
	if err != nil || cs[0].Kind != LowerReplaced || !strings.Contains(cs[0].Why, "has lost 5 of the 20") {
		t.Errorf("%v, %v", cs, err)
	}
}

func TestMadeComesBack(t *testing.T) {
	w := newWorld(t)
	w.lower(t, "base", object(t, "a"))
	want := madeOf(t, w.at(t, "base", "base"))
	if _, err := ReadMade(w.dir); !errors.Is(err, ErrNotMade) {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := want.Write(w.dir); err != nil {
			t.Fatal(err)
		}
		got, err := ReadMade(w.dir)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	if err := os.WriteFile(madePath(w.dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadMade(w.dir); !errors.Is(err, ErrMadeDamaged) || errors.Is(err, ErrNotMade) {
		t.Errorf("damaged: %v", err)
	}
}

const madeText = `{"version":1,"storeDir":"/nix/store","written":"2026-11-21T10:00:00Z","lowers":[
{"name":"base","kind":"image","given":"/srv/base.erofs","image":{"type":"erofs","bytes":4096,"header":"sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
"database":{"highest":7,"samples":[{"path":"vj1qhyjkqgaf67jx3nyyi79sd3nn69qk-lib","narHash":"sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}]}},
{"name":"team","kind":"directory","given":"/mnt/team","state":"db","directory":{"fileSystem":"uuid:00","inode":17,"born":1}},
{"name":"other","kind":"store","given":"unix:///run/x.sock?root=/mnt/x"}]}`

func TestMadeRefused(t *testing.T) {
	if _, err := ParseMade([]byte(madeText)); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"version":1`, `"version":2`},
		{`"/nix/store"`, `"nix"`},
		{`"kind":"image"`, `"kind":"tape"`},
		{`"name":"team"`, `"name":"../team"`},
		{`"name":"team"`, `"name":"base"`},
		{`"bytes":4096`, `"bytes":-1`},
		{`"header":"sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`, `"header":"md5-1B2M2Y8AsgTpgAmY7PhCfg=="`},
		{`"path":"vj1q`, `"path":"../vj1q`},
		{`"narHash":"sha256-`, `"narHash":"sha1-`},
		{`]}`, ``},
	} {
		text := strings.Replace(madeText, change[0], change[1], 1)
		if m, err := ParseMade([]byte(text)); err == nil || text == madeText {
			t.Errorf("%q: %+v", change, m)
		}
	}
	var samples []string
	for i := range maxSamples + 1 {
		samples = append(samples, fmt.Sprintf(`{"path":"%s","narHash":"%s"}`, object(t, fmt.Sprint(i)).Path().Base(), nixhash.Of(nixhash.SHA256, "")))
	}
	text := `{"version":1,"storeDir":"/nix/store","lowers":[{"name":"a","kind":"directory","database":{"samples":[` + strings.Join(samples, ",") + `]}}]}`
	if _, err := ParseMade([]byte(text)); err == nil {
		t.Error("too many samples")
	}
}

// FuzzMade: what is read can be written, and comes back as it was.
func FuzzMade(f *testing.F) {
	f.Add([]byte(madeText))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseMade(text)
		if err != nil {
			return
		}
		for i := range m.Lowers {
			if _, err := m.Lowers[i].lowerOf("/upper"); err != nil && m.Lowers[i].Kind != KindStore {
				t.Fatal(err)
			}
		}
		again, err := json.Marshal(m)
		if err != nil {
			return // a time that JSON cannot spell
		}
		got, err := ParseMade(again)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%+v, %v, was %+v", got, err, m)
		}
	})
}

func pathsOf(objects ...storetest.Object) (out []storepath.Path) {
	for _, o := range objects {
		out = append(out, o.Path())
	}
	return out
}
