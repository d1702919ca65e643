package execute_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/execute"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// roles are builders that are this program: what a shell cannot do.
var roles = map[string]func() error{"deep": deepRole, "nix": nixRole}

const roleVariable = "STRATA_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := roles[os.Getenv(roleVariable)]; role != nil {
		if err := role(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// role is a derivation whose builder is this program.
func (w *world) role(t *testing.T, name string, env map[string]string) *derivation.Derivation {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := script("")
	d.Builder = exe
	if w.opts.Sandbox != execute.Unboxed {
		d.Builder = "/builder"
		w.opts.SandboxPaths = append(w.opts.SandboxPaths, execute.SandboxPath{Target: "/builder", Source: exe})
		for _, dir := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64"} {
			w.opts.SandboxPaths = append(w.opts.SandboxPaths, execute.SandboxPath{Target: dir, Optional: true})
		}
	}
	d.Env = map[string]string{roleVariable: name, "PATH": "/"}
	for k, v := range env {
		d.Env[k] = v
	}
	return d
}

// deepRole makes directories deeper than any path can be long, in $where.
func deepRole() error {
	if err := os.Mkdir(os.Getenv("where"), 0o755); err != nil {
		return err
	}
	if err := os.Chdir(os.Getenv("where")); err != nil {
		return err
	}
	for range 1000 { // which makes 5000 bytes
		if err := errors.Join(unix.Mkdir("deep", 0o700), unix.Chdir("deep")); err != nil {
			return err
		}
	}
	if os.Getenv("where") != os.Getenv("out") {
		return os.WriteFile(os.Getenv("out"), []byte("x"), 0o644) //nolint:gosec // as builders do
	}
	return nil
}

func TestDeepTrees(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := w.role(t, "deep", map[string]string{"where": derivation.OutputPlaceholder("out")})
		w.fails(t, d, store.OutputRejected)
		w.build(t, w.role(t, "deep", map[string]string{"where": "tree"}))
	})
}

// nixRole asks for a store object to be added, whose path it then reads.
func nixRole() error {
	conn, err := net.Dial("unix", strings.TrimPrefix(os.Getenv("NIX_REMOTE"), "unix://"))
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	path, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	path = strings.TrimSpace(path)
	if text, err := os.ReadFile(path); err != nil || string(text) != "hello\n" {
		return fmt.Errorf("%q, %w", text, err)
	}
	return os.WriteFile(os.Getenv("out"), []byte(path), 0o644) //nolint:gosec // as builders do
}

// serveAdd adds each line that it reads as an object.
func serveAdd(ctx context.Context, conn net.Conn, s store.Store) {
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		a, err := store.Need[store.DumpAdder](s, "add")
		if err != nil {
			panic(err)
		}
		info, err := a.AddDump(ctx, store.Dump{
			Name: "added", Spec: storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}, Contents: strings.NewReader(line),
		}, store.AddOptions{})
		if err != nil {
			fmt.Fprintln(conn, err)
			continue
		}
		fmt.Fprintln(conn, s.Dir().Print(info.Path))
	}
}

func TestRecursiveNix(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.opts.ServeNix = serveAdd
		d := w.role(t, "nix", map[string]string{"requiredSystemFeatures": "recursive-nix"})
		if r := w.fails(t, d, store.MiscFailure); !strings.Contains(r.Message, "experimental Nix feature 'recursive-nix' is disabled") {
			t.Error(r.Message)
		}
		w.opts.Features = []string{"recursive-nix"}
		r := w.build(t, d)
		out := r.Outputs["out"].OutPath
		info, err := store.PathInfoOf(t.Context(), w, out)
		if err != nil {
			t.Fatal(err)
		}
		if len(info.References) != 1 || w.Dir().Print(info.References[0]) != w.text(t, r, "out") {
			t.Errorf("%v refers to %v", w.text(t, r, "out"), info.References)
		}
		if _, err := os.Stat(filepath.Join(w.RealDir(), info.References[0].Base())); err != nil {
			t.Error(err)
		}
	})
}
