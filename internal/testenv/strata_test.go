package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeModule is a source tree whose cmd/strata prints a text.
func fakeModule(t *testing.T, text string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":             "module example.test/m\n\ngo 1.26\n",
		"cmd/strata/main.go": "package main\n\nfunc main() { println(`" + text + "`) }\n",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestBinariesOfTwoSourcesLieSideBySide(t *testing.T) {
	dir := t.TempDir()
	var bins []string
	for _, text := range []string{"one", "two", "two"} {
		bin, err := buildStrata(t.Context(), fakeModule(t, text), dir)
		if err != nil {
			t.Fatal(err)
		}
		bins = append(bins, bin)
		if out, err := exec.Command(bin).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != text {
			t.Errorf("it prints %q, %v; want %s", out, err, text)
		}
	}
	if bins[0] == bins[1] {
		t.Error("two sources, one name")
	}
	if bins[1] != bins[2] {
		t.Errorf("the same source gives %s and %s", bins[1], bins[2])
	}
	if _, err := os.Stat(bins[0]); err != nil {
		t.Errorf("the first binary may still be running: %v", err)
	}
}

func TestSourceThatDoesNotCompileShowsWhy(t *testing.T) {
	_, err := buildStrata(t.Context(), fakeModule(t, "` + nonsense + `"), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "undefined: nonsense") {
		t.Errorf("got %v", err)
	}
}

func TestStrataRunsInsideAndOutside(t *testing.T) {
	nix := Nix(t, "2.34")
	for where, cmd := range map[string]*exec.Cmd{
		"outside": exec.CommandContext(t.Context(), Strata(t), "daemon", "--version"),
		"inside":  nix.StrataCommand(t.Context(), t, "daemon", "--version"),
	} {
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "nix-daemon (Nix) "+nix.Version) {
			t.Errorf("%s: %q, %v", where, out, err)
		}
	}
}
