package daemon_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// pathInfos is what a command that ends in `nix path-info --json` says, by path
// and without the time of registration.
func pathInfos(t *testing.T, nix *testenv.NixEnv, args ...string) map[string]string {
	t.Helper()
	args = append([]string{"path-info", "--json"}, args...)
	text := nix.Run(t, "nix", args...)
	byPath := map[string]map[string]any{}
	if strings.HasPrefix(text, "[") { // until 2.18 or so
		var list []map[string]any
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		for _, info := range list {
			byPath[fmt.Sprint(info["path"])] = info
		}
	} else if err := json.Unmarshal([]byte(text), &byPath); err != nil {
		t.Fatal(err)
	}
	infos := map[string]string{}
	for path, info := range byPath {
		delete(info, "registrationTime")
		line, err := json.Marshal(info)
		if err != nil {
			t.Fatal(err)
		}
		infos[path] = string(line)
	}
	return infos
}

// treeOf describes everything below a directory but for .links and locks: type,
// mode, owner, mtime, target or contents.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if d.Name() == ".links" {
			return fs.SkipDir
		}
		if strings.HasSuffix(d.Name(), ".lock") && filepath.Dir(path) == dir {
			return nil
		}
		text, err := describeFile(path, d)
		tree[strings.TrimPrefix(path, dir+"/")] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func describeFile(path string, d fs.DirEntry) (string, error) {
	fi, err := d.Info()
	if err != nil {
		return "", err
	}
	st := fi.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // Linux
	text := fmt.Sprint(fi.Mode(), " ", st.Uid, ":", st.Gid, " ", fi.ModTime().UnixNano())
	switch {
	case fi.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, f)
		return fmt.Sprintf("%s %d %x", text, n, h.Sum(nil)), err
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return text + " -> " + target, err
	}
	return text, nil
}

// filesOf is the contents of the files in a directory, of large ones the hash.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		text := string(data)
		if len(data) > 4<<10 {
			text = fmt.Sprintf("%x", sha256.Sum256(data))
		}
		files[strings.TrimPrefix(path, dir+"/")] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// same reports where two maps differ, a few places of them.
func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if len(want) == 0 {
		t.Errorf("%s: nothing to compare with", what)
	}
	bad := 0
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[k]; (!ok || g != want[k]) && bad < 5 {
			bad++
			t.Errorf("%s: %s is\n%s\nwant\n%s", what, k, g, want[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[k]; !ok && bad < 10 {
			bad++
			t.Errorf("%s: %s is there and should not be: %s", what, k, got[k])
		}
	}
}

// content is all there is to compare about a store.
type content struct{ infos, tree map[string]string }

func (h *house) content(t *testing.T) content {
	t.Helper()
	return content{pathInfos(t, h.nix, "--all"), treeOf(t, h.store())}
}

func (c content) compare(t *testing.T, what string, want content) {
	t.Helper()
	same(t, what+": path infos", c.infos, want.infos)
	same(t, what+": trees", c.tree, want.tree)
}
