package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// expression makes derivations whose builder writes one line.
const expression = `{ n }: builtins.genList (i: derivation {
  name = "trivial-${toString i}";
  system = builtins.currentSystem;
  builder = "` + shellPath + `";
  args = [ "sh" "-c" "echo $i > $out" ];
  i = toString i;
}) n`

// build is a row's workload: n trivial derivations in one request, one after the
// other.
type build struct {
	n              int
	sandbox, layer bool
}

// buildRows build in /nix/store itself, which lies in memory.
func buildRows(o options) []row {
	var rows []row
	add := func(name, what string, b build, r row) {
		b.n = o.scaled(b.n, 4)
		r.name, r.what, r.unit, r.run = "build/"+name, fmt.Sprintf("%d %s", b.n, what), millis, b.run
		if b.layer {
			r.needs = []need{o.paths(million)}
		}
		rows = append(rows, r)
	}
	const curve = "a build without sandbox, by builds in a request"
	for _, n := range []int{25, 200, 800} {
		add(fmt.Sprintf("plain-%d", n), "builds, ms each", build{n: n}, row{limit: 5, memory: 100, long: n == 800, curve: curve, at: n})
	}
	add("sandbox-200", "sandboxed builds, ms each", build{n: 200, sandbox: true}, row{limit: 20})
	add("overlay-200", "builds over a lower store, ms each", build{n: 200, layer: true}, row{limit: 5})
	add("overlay-sandbox-200", "sandboxed builds over a lower store, ms each", build{n: 200, sandbox: true, layer: true}, row{limit: 20})
	for _, n := range []int{50, 100, 400} {
		add(fmt.Sprintf("plain-%d", n), "builds, ms each", build{n: n}, row{pairs: 1, curve: curve, at: n})
	}
	// Stock Nix takes a quarter of an hour for these, and 15 GiB.
	add("plain-1600", "builds, ms each", build{n: 1600}, row{pairs: 1, alone: true, limit: 5, memory: 100, curve: curve, at: 1600})
	return rows
}

// run builds in a new /nix.
func (b build) run(ctx context.Context, w *world, s side) (got sample, err error) {
	if _, err := os.Stat(shellPath); err != nil {
		return got, errors.New("there is no busybox on this machine; install busybox-static")
	}
	if err := unix.Mount("tmpfs", "/nix", "tmpfs", 0, "mode=755"); err != nil {
		return got, fmt.Errorf("mount a tmpfs at /nix: %w", err)
	}
	defer func() { err = errors.Join(err, unmount("/nix")) }()
	uri, end, err := b.store(ctx, w)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, end()) }()
	drvs, err := b.instantiate(ctx, w, uri)
	if err != nil {
		return got, err
	}
	if s == ours && b.sandbox {
		shown, err := w.showLibraries(ctx)
		if err != nil {
			return got, err
		}
		defer func() { err = errors.Join(err, shown()) }()
	}
	c := command{env: map[string]string{"NIX_CONFIG": b.config()}, answer: sortedLines}
	c.args = s.choose(
		append([]string{"nix-store", "--store", uri, "--realise"}, drvs...),
		append([]string{"--store", uri, "build", "--no-link"}, outputsOf(drvs)...))
	if got, err = c.run(ctx, w); err != nil {
		return got, err
	}
	got.Value = got.Value * 1000 / float64(b.n)
	got.CPU /= float64(b.n)
	return got, nil
}

// showLibraries adds bubblewrap's library to those of the tree, for as long as it
// is needed.
func (w *world) showLibraries(ctx context.Context) (end func() error, err error) {
	dirs, err := filepath.Glob("/usr/lib/*-linux-gnu")
	if err != nil || len(dirs) != 1 {
		return nil, fmt.Errorf("where are the libraries of the tree? %q %w", dirs, err)
	}
	copied := filepath.Join(w.mem, "lib") // a lower layer does not show what is mounted in it
	if err := errors.Join(os.RemoveAll(copied), do(ctx, "cp", "-r", libDir, copied)); err != nil {
		return nil, err
	}
	if err := unix.Mount("overlay", dirs[0], "overlay", 0, "lowerdir="+copied+":"+dirs[0]); err != nil {
		return nil, fmt.Errorf("show libraries: %w", err)
	}
	return func() error { return unmount(dirs[0]) }, nil
}

// store makes the store that is built in.
func (b build) store(ctx context.Context, w *world) (uri string, end func() error, err error) {
	if !b.layer {
		return "local", func() error { return nil }, os.MkdirAll("/nix/store", 0o755)
	}
	lower, err := w.database(ctx, w.o.paths(million))
	if err != nil {
		return "", nil, err
	}
	end, err = mountOverlay(filepath.Join(lower, "nix/store"), "/nix/layer", "/nix/store")
	return overlayURI("/", lower, "/nix/layer/upper"), end, err
}

// instantiate makes the derivations with stock Nix.
func (b build) instantiate(ctx context.Context, w *world, uri string) ([]string, error) {
	file := filepath.Join(w.mem, "trivial.nix")
	if err := os.WriteFile(file, []byte(expression), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nix-instantiate", "--store", uri, "--quiet", file, "--arg", "n", fmt.Sprint(b.n))
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, firstLine(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("nix-instantiate: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// outputsOf spells the outputs of derivations.
func outputsOf(drvs []string) []string {
	var list []string
	for _, d := range drvs {
		list = append(list, d+"^out")
	}
	return list
}

func (b build) config() string {
	config := nixConfig + "max-jobs = 1\nsandbox-fallback = false\n"
	if b.sandbox {
		return config + "sandbox = true\nsandbox-paths = " + shellPath + "=" + shellPath + "\n"
	}
	return config + "sandbox = false\n"
}
