package execute_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store"
)

func TestUnknownBuiltin(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.opts.KeepFailed = true // which is not for builtin builders
		d := script("")
		d.Builder = "builtin:nonsense"
		r := w.fails(t, d, store.PermanentFailure)
		w.clean(t)
		if !slices.Equal(w.heard.lines, []string{"error: unsupported builtin builder 'nonsense'"}) || !strings.Contains(r.Message, "builder failed with exit code 1") {
			t.Errorf("%q\n%s", w.heard.lines, r.Message)
		}
	})
}

func TestBuiltinFetchurl(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.opts.Transfer = filetransfer.New(filetransfer.Options{})
		file := filepath.Join(testenv.Scratch(t), "file")
		if err := os.WriteFile(file, []byte("contents"), 0o644); err != nil { //nolint:gosec // everybody reads it
			t.Fatal(err)
		}
		d := flat(script(""), "contents")
		d.Builder, d.Platform = "builtin:fetchurl", "builtin"
		d.Env = map[string]string{"url": "file://" + file}
		if strings.HasSuffix(t.Name(), "/unboxed") {
			if got := w.text(t, w.build(t, d), "out"); got != "contents" {
				t.Errorf("%q", got)
			}
			return
		}
		// In a sandbox there is no such file.
		w.fails(t, d, store.TransientFailure)
	})
}
