package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// runOn runs the real go test on a module of the given files, and up to again failed tests
// once more.
func runOn(t *testing.T, again int, files map[string]string) (s *summary, output string) {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module example.test/m\n\ngo 1.26\n"
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOFLAGS", "")
	var out bytes.Buffer
	args := []string{"-count=1", "./..."}
	s, err := run(t.Context(), args, &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.rerun(t.Context(), again, args, &out); err != nil {
		t.Fatal(err)
	}
	s.report(&out)
	return s, out.String()
}

func TestSummaryOfRealRuns(t *testing.T) {
	testenv.LongWithRace(t)
	head := "package x\nimport \"testing\"\n"
	// first is true when the module's tests are run for the first time.
	atFirst := "package x\nimport (\"os\"; \"testing\")\nfunc first() bool { _, err := os.Stat(\"again\"); return os.WriteFile(\"again\", nil, 0o600) == nil && err != nil }\n"
	cases := []struct {
		name       string
		files      map[string]string
		again      int // failed tests that may be run once more
		good       bool
		goodNoSkip bool
		want       []string
		dontWant   []string
	}{
		{
			name:  "all pass, subtests count alone",
			files: map[string]string{"x_test.go": head + `func TestA(t *testing.T) { t.Log("quiet") }` + "\n" + `func TestB(t *testing.T) { t.Run("1", func(*testing.T) {}); t.Run("2", func(*testing.T) {}) }`},
			good:  true, goodNoSkip: true,
			want:     []string{"ok  \texample.test/m\t", "\n3 passed, 0 failed, 0 skipped\n"},
			dontWant: []string{"quiet", "skipped:"},
		},
		{
			name:  "skips are listed by reason",
			files: map[string]string{"x_test.go": head + `func TestA(t *testing.T) { t.Skip("no pony") }` + "\n" + `func TestB(t *testing.T) { t.Run("1", func(t *testing.T) { t.Skip("no pony") }); t.Run("2", func(*testing.T) {}) }` + "\n" + `func TestC(t *testing.T) { t.SkipNow() }`},
			good:  true,
			want:  []string{"    2  no pony (TestA, TestB/1)\n", "    1  no reason given (TestC)\n", "\n1 passed, 0 failed, 3 skipped\n"},
		},
		{
			name:     "failure shows its output",
			files:    map[string]string{"x_test.go": head + `func TestA(t *testing.T) { t.Run("1", func(t *testing.T) { t.Error("broken thing") }) }` + "\n" + `func TestB(t *testing.T) { t.Run("1", func(t *testing.T) {}); t.Error("by itself") }`},
			want:     []string{"broken thing", "by itself", "--- FAIL: TestA/1", "failed: example.test/m TestA/1\n    x_test.go:3: broken thing\n", "FAIL\texample.test/m\t", "\n1 passed, 2 failed, 0 skipped\n"},
			dontWant: []string{"=== RUN"},
		},
		{
			name:  "code that does not compile",
			files: map[string]string{"x_test.go": head + `func TestA(t *testing.T) { undefinedThing() }`, "y/y_test.go": strings.Replace(head, "x", "y", 1) + `func TestY(*testing.T) {}`},
			want:  []string{"undefined: undefinedThing", "failed as a whole: example.test/m\n", "\n1 passed, 1 failed, 0 skipped\n"},
		},
		{
			name:  "panic",
			files: map[string]string{"x_test.go": head + `func TestA(t *testing.T) { panic("boom") }` + "\n" + `func TestB(*testing.T) {}`},
			want:  []string{"failed: example.test/m TestA\npanic: boom", " 1 failed, 0 skipped\n"},
		},
		{
			name:  "exit in the middle",
			files: map[string]string{"x_test.go": "package x\nimport (\"testing\"; \"os\")\n" + `func TestA(t *testing.T) { os.Exit(3) }`},
			want:  []string{" 1 failed, 0 skipped\n"},
		},
		{
			name:  "what passes when it is run once more",
			files: map[string]string{"x_test.go": atFirst + `func TestA(t *testing.T) { t.Run("1", func(t *testing.T) { if first() { t.Error("at times") } }) }` + "\n" + `func TestB(*testing.T) {}`},
			again: 1, good: true, goodNoSkip: true,
			want: []string{"once more, alone: example.test/m TestA\n", "failed, and passed when it was run once more alone: example.test/m TestA/1\n    x_test.go:4: at times\n", "\n2 passed, 0 failed, 0 skipped\n"},
		},
		{
			name:  "what fails again",
			files: map[string]string{"x_test.go": head + `func TestA(t *testing.T) { t.Error("always") }`},
			again: 1,
			want:  []string{"failed: example.test/m TestA\n", "\n0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name:     "more than may be run once more",
			files:    map[string]string{"x_test.go": atFirst + `func TestA(t *testing.T) { if first() { t.Error("at times") } }` + "\n" + `func TestB(t *testing.T) { t.Error("always") }`},
			again:    1,
			want:     []string{"\n0 passed, 2 failed, 0 skipped\n"},
			dontWant: []string{"once more"},
		},
		{
			name:     "a data race",
			files:    map[string]string{"x_test.go": atFirst + `func TestA(t *testing.T) { if first() { t.Error("WARNING: DATA RACE") } }`},
			again:    1,
			want:     []string{"\n0 passed, 1 failed, 0 skipped\n"},
			dontWant: []string{"once more"},
		},
		{
			name:     "a panic",
			files:    map[string]string{"x_test.go": atFirst + `func TestA(t *testing.T) { if first() { panic("boom") } }`},
			again:    1,
			want:     []string{" 1 failed, 0 skipped\n"},
			dontWant: []string{"once more"},
		},
		{
			name:  "no tests at all",
			files: map[string]string{"x.go": "package x\n"},
			want:  []string{"\n0 passed, 0 failed, 0 skipped\n"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, out := runOn(t, c.again, c.files)
			if s.good(false) != c.good || s.good(true) != c.goodNoSkip {
				t.Errorf("good: %t, without skips %t", s.good(false), s.good(true))
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("%q is missing", w)
				}
			}
			for _, w := range c.dontWant {
				if strings.Contains(out, w) {
					t.Errorf("%q is there", w)
				}
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}
