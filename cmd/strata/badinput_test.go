package main

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// spoilt is a store that bad input must leave as it is, and what bad input is made
// of.
type spoilt struct {
	t     *testing.T
	dir   string
	chain []storetest.Object // valid in the store
	fresh []storetest.Object // not valid; refer to each other like chain
}

func newSpoilt(t *testing.T) *spoilt {
	t.Helper()
	s := &spoilt{t: t, dir: testenv.Scratch(t), chain: storetest.Chain(t, storepath.DefaultDir, 2)}
	first := storetest.Tree(t, storepath.DefaultDir, "fresh-1", map[string]string{"bin/tool": "#!/bin/sh\n", "share/data": strings.Repeat("x", 5000)})
	second := storetest.File(t, storepath.DefaultDir, "fresh-2", "second", first.Path())
	s.fresh = []storetest.Object{first, second}
	for _, name := range []string{"NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_CONFIG", "NIX_DAEMON_SOCKET_PATH", "NIX_USER_CONF_FILES"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Setenv("NIX_CONF_DIR", filepath.Join(s.dir, "etc"))
	t.Setenv("HOME", filepath.Join(s.dir, "home"))
	t.Setenv("NIX_REMOTE", s.uri())
	s.fill("root", s.chain...)
	return s
}

func (s *spoilt) uri() string { return "local?root=" + filepath.Join(s.dir, "root") }

func (s *spoilt) fill(name string, objects ...storetest.Object) {
	s.t.Helper()
	st, err := local.Open(s.t.Context(), local.Options{Root: filepath.Join(s.dir, name)})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, o := range objects {
		if err := st.Add(s.t.Context(), o.Info, o.Reader(), store.AddOptions{NoCheckSigs: true}); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// strata is one run of the command.
func (s *spoilt) strata(stdin string, args ...string) (stdout, stderr string, code exitCode) {
	s.t.Helper()
	var out, errs bytes.Buffer
	code = run(s.t.Context(), append([]string{"strata"}, args...), strings.NewReader(stdin), &out, &errs)
	return out.String(), errs.String(), code
}

func (s *spoilt) must(stdin string, args ...string) string {
	s.t.Helper()
	out, errs, code := s.strata(stdin, args...)
	if code != exitOK {
		s.t.Fatalf("strata %q: status %d\n%s", args, code, errs)
	}
	return out
}

// everything is what must not change: names in the scratch directory, without what
// SQLite and Nix's locking put beside the database, and what is registered.
func (s *spoilt) everything() string {
	s.t.Helper()
	var names []string
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !strings.Contains(path, "/nix/var/nix/") {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Join(names, "\n") + "\n" + s.must("", "dump-db")
}

// exported is an export of objects that are in no store yet.
func (s *spoilt) exported(objects ...storetest.Object) string {
	s.t.Helper()
	s.fill("elsewhere", objects...)
	args := []string{"export", "--store", "local?root=" + filepath.Join(s.dir, "elsewhere")}
	for _, o := range objects {
		args = append(args, storepath.DefaultDir.Print(o.Path()))
	}
	return s.must("", args...)
}

// at replaces the bytes at the n-th place of what in s.
func at(s, what string, n int, with string) string {
	i := 0
	for ; n > 0; n-- {
		i += strings.Index(s[i:], what) + 1
	}
	i--
	return s[:i] + with + s[i+len(with):]
}

func TestBadInputChangesNothing(t *testing.T) {
	s := newSpoilt(t)
	dir := storepath.DefaultDir
	print := func(o storetest.Object) string { return dir.Print(o.Path()) }
	valid := print(s.chain[0])
	first, second := print(s.fresh[0]), print(s.fresh[1])
	export := s.exported(s.fresh...)
	one := s.exported(s.fresh[:1]...)
	nar := string(s.fresh[0].NAR)
	file := filepath.Join(s.dir, "file")
	if err := os.WriteFile(file, []byte("contents"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(s.dir, "out")
	huge := binary.LittleEndian.AppendUint64(nil, 1<<62)
	hash := strings.Repeat("0", 52)
	bad := func(path, hash, size string, refs ...string) string {
		text := path + "\n" + hash + "\n" + size + "\n\n"
		return text + string(rune('0'+len(refs))) + "\n" + strings.Join(append(refs, ""), "\n")
	}
	for _, c := range []struct {
		name  string
		args  []string
		stdin string
		code  exitCode
		says  []string
	}{
		// Store URIs.
		{"URI that is no URI", []string{"info", "--all", "--store", "local?root=%zz"}, "", exitUsage, []string{"%zz"}},
		{"unknown kind of store", []string{"info", "--all", "--store", "locale"}, "", exitUsage, []string{"'locale'", "did you mean 'local'"}},
		{"unknown setting", []string{"info", "--all", "--store", "local?rot=/x"}, "", exitUsage, []string{"'rot'", "did you mean 'root'"}},
		{"setting of another kind", []string{"info", "--all", "--store", "local?upper-layer=/x"}, "", exitUsage, []string{"'upper-layer'"}},
		{"overlay setting", []string{"info", "--all", "--store", "local-overlay://?uper-layer=/x"}, "", exitUsage, []string{"'uper-layer'", "did you mean 'upper-layer'"}},
		{"bad lower", []string{"info", "--all", "--store", "local-overlay://?upper-layer=/x&lower-store=lokal"}, "", exitUsage, []string{"lokal", "lower"}},
		{"relative root", []string{"info", "--all", "--store", "local?root=x"}, "", exitUsage, []string{"'root'", "'x'", "absolute"}},
		{"flag that is none", []string{"info", "--all", "--store", "local?read-only=perhaps"}, "", exitUsage, []string{"'read-only'", "'perhaps'"}},
		{"given twice", []string{"info", "--all", "--store", "local?root=/a&root=/b"}, "", exitUsage, []string{"'root'", "2 times"}},
		{"no socket", []string{"info", "--all", "--store", "unix://" + s.dir + "/nothing"}, "", exitError, []string{s.dir + "/nothing"}},
		{"option of nix.conf", []string{"info", "--all", "--option", "require-sigs", "perhaps"}, "", exitUsage, []string{"'require-sigs'", "perhaps"}},

		// Store paths.
		{"short path", []string{"info", "/nix/store/short"}, "", exitUsage, []string{"/nix/store/short"}},
		{"letters that no hash has", []string{"info", "/nix/store/" + strings.Repeat("e", 32) + "-x"}, "", exitUsage, []string{strings.Repeat("e", 32)}},
		{"name with a blank", []string{"cat", valid[:44] + "a b"}, "", exitUsage, []string{"a b"}},
		{"elsewhere", []string{"ls", "/etc/passwd"}, "", exitUsage, []string{"/etc/passwd"}},
		{"climbing out", []string{"cat", valid + "/../../../etc/passwd"}, "", exitUsage, []string{"/etc/passwd"}},
		{"delete of nonsense", []string{"delete", valid, "/nix/store/x"}, "", exitUsage, []string{"/nix/store/x"}},
		{"delete of what is needed", []string{"delete", valid}, "", exitError, []string{valid, "alive"}},
		{"root for nonsense", []string{"add-root", filepath.Join(s.dir, "link"), "/nix/store/x"}, "", exitUsage, []string{"/nix/store/x"}},

		// NARs.
		{"no NAR", []string{"restore", out}, "GIF89a and so on and on and on", exitDamaged, []string{out, "archive"}},
		{"empty NAR", []string{"restore", out}, "", exitDamaged, []string{out}},
		{"truncated NAR", []string{"restore", out}, nar[:len(nar)-16], exitDamaged, []string{out}},
		{"NAR cut in a file", []string{"restore", out}, nar[:len(nar)-2000], exitDamaged, []string{out}},
		{"padding", []string{"restore", out}, at(nar, "type\x00", 1, "type\x01"), exitDamaged, []string{out, "padding", "offset"}},
		{"huge string", []string{"restore", out}, at(nar, "type\x00", 2, "type\x00\x00\x00\x00"+string(huge)), exitDamaged, []string{out, "offset"}},
		{"name that climbs", []string{"restore", out}, at(nar, "bin\x00", 1, "../"), exitDamaged, []string{out, "slash", "offset"}},
		{"wrong order", []string{"restore", out}, at(nar, "share\x00", 1, "aaare\x00"), exitDamaged, []string{out, "aaare"}},
		{"something after it", []string{"restore", out}, nar + "more", exitError, []string{out, "follows"}},
		{"place that is taken", []string{"restore", file}, nar, exitError, []string{file, "exists"}},

		// Exports.
		{"no export", []string{"import"}, "nonsense that is long enough to be something", exitDamaged, []string{"export"}},
		{"NAR for an export", []string{"import"}, nar, exitDamaged, []string{"export"}},
		{"truncated export", []string{"import"}, one[:len(one)-20], exitDamaged, []string{"fresh-1"}},
		{"export cut in a NAR", []string{"import"}, one[:1000], exitDamaged, nil},
		{"export with a damaged NAR", []string{"import"}, at(one, "share\x00", 1, "aaare\x00"), exitDamaged, []string{"aaare"}},
		{"export with a malformed path", []string{"import"}, at(one, first, 1, "/nix/store/#"), exitDamaged, []string{"/nix/store/#"}},
		{"export without what it needs", []string{"import"}, export[:8] + export[strings.LastIndex(export[:strings.LastIndex(export, second)], "nix-archive-1")-8:], exitAbsent, []string{first, "not valid"}},

		// Registrations.
		{"no registration", []string{"load-db"}, "nonsense\n", exitDamaged, []string{"line 1", "nonsense"}},
		{"truncated registration", []string{"load-db"}, first + "\n" + hash + "\n", exitDamaged, []string{"line"}},
		{"no hash", []string{"load-db"}, bad(first, "xyz", "1"), exitDamaged, []string{"line 2", "xyz"}},
		{"no size", []string{"load-db"}, bad(first, hash, "-1"), exitDamaged, []string{"line 3", "-1"}},
		{"path that is none", []string{"load-db"}, bad(first, hash, "1") + bad("/nix/store/x", hash, "1"), exitDamaged, []string{"line 6", "/nix/store/x"}},
		{"reference that is none", []string{"load-db"}, bad(first, hash, "1", "/nix/store/x"), exitDamaged, []string{"line 6", "/nix/store/x"}},
		{"fewer references than said", []string{"load-db"}, first + "\n" + hash + "\n1\n\n3\n" + valid + "\n", exitDamaged, []string{"line"}},
		{"2^40 references", []string{"load-db"}, first + "\n" + hash + "\n1\n\n1099511627776\n", exitDamaged, []string{"line"}},
		{"missing reference", []string{"load-db"}, bad(second, hash, "1", first), exitAbsent, []string{first, "not valid"}},
		{"cycle", []string{"load-db"}, bad(first, hash, "1", second) + bad(second, hash, "1", first), exitError, []string{"cycle", first, second}},

		// Objects.
		{"file that is not there", []string{"add", filepath.Join(s.dir, "none")}, "", exitError, []string{filepath.Join(s.dir, "none")}},
		{"name that is none", []string{"add", "--name", "a b", file}, "", exitUsage, []string{"a b"}},
		{"name that hides", []string{"add", "--name", "..", file}, "", exitUsage, []string{"'..'"}},
		{"reference to what is not valid", []string{"add", "--reference", first, file}, "", exitAbsent, []string{first, "not valid"}},
		{"algorithm that is none", []string{"add", "--hash-algo", "sha3", file}, "", exitUsage, []string{"sha3"}},
		{"socket", []string{"add", "/dev/null"}, "", exitError, []string{"/dev/null"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			before := s.everything()
			_, stderr, code := s.strata(c.stdin, c.args...)
			if code == exitOK || c.code != 0 && code != c.code {
				t.Errorf("status %d, want %d: %s", code, c.code, stderr)
			}
			if !strings.Contains(stderr, "error: ") {
				t.Errorf("stderr: %q", stderr)
			}
			for _, words := range c.says {
				if !strings.Contains(stderr, words) {
					t.Errorf("no %q in %q", words, stderr)
				}
			}
			if after := s.everything(); after != before {
				t.Errorf("it changed something:\n--- before\n%s\n--- after\n%s", before, after)
			}
		})
	}
	s.t = t
	// Nor has any of it spoilt what is right.
	if got := s.must(export, "import"); got != first+"\n"+second+"\n" {
		t.Errorf("import printed %q", got)
	}
}

// An object that was changed on disk is not passed on.
func TestCopyOfDamagedObjects(t *testing.T) {
	s := newSpoilt(t)
	s.fill("damaged", s.fresh...)
	path := storepath.DefaultDir.Print(s.fresh[0].Path())
	data := filepath.Join(s.dir, "damaged", path, "share/data")
	if err := os.Chmod(data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, []byte(strings.Repeat("y", 5000)), 0o444); err != nil {
		t.Fatal(err)
	}
	before := s.everything()
	for _, args := range [][]string{
		{"copy", "--from", "local?root=" + s.dir + "/damaged", "--closure", storepath.DefaultDir.Print(s.fresh[1].Path())},
		{"export", "--store", "local?root=" + s.dir + "/damaged", path},
	} {
		_, stderr, code := s.strata("", args...)
		if code != exitDamaged || !strings.Contains(stderr, path) || !strings.Contains(stderr, "hash") {
			t.Errorf("%s: status %d, %s", args[0], code, stderr)
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("it changed something:\n--- before\n%s\n--- after\n%s", before, after)
	}
}
