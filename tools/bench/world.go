package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
)

// The version of stock Nix that is compared with.
const nixVersion = "2.34"

// Where things are in the world.
const (
	toolDir    = "/opt/bench"
	strataPath = toolDir + "/strata"
	benchPath  = toolDir + "/bench"
	shellPath  = toolDir + "/busybox"
	bwrapPath  = toolDir + "/bwrap"
	libDir     = toolDir + "/lib"
)

// nixConfig is what both sides are told.
const nixConfig = `experimental-features = nix-command local-overlay-store read-only-local-store
substituters =
builders =
build-users-group =
`

// spec is what the process in the world is told.
type spec struct {
	Options options
	Rows    []string // names
	Inputs  inputs
	Dir     string // a scratch directory on a disk
}

// report is what it tells of a row.
type report struct {
	Row    string
	Result result
}

// runInWorld makes the inputs and runs the rows in a new world, which is gone
// when it returns. It gives how many rows failed.
func runInWorld(ctx context.Context, o options, dir, strata string, rows []row, kept *results) (failed int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("this needs root: stores of both sides are made, mounted and built in")
	}
	tree, err := testenv.Tree(ctx, nixVersion, false, os.Stderr)
	if err != nil {
		return 0, fmt.Errorf("stock Nix %s: %w", nixVersion, err)
	}
	scratch, err := os.MkdirTemp(dir, "strata-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, testenv.RemoveAll(scratch)) }()
	nix, err := testenv.NixIn(tree, nixVersion, scratch)
	if err != nil {
		return 0, err
	}
	in, err := makeInputs(ctx, o, nix, rows)
	if err != nil {
		return 0, err
	}
	s := spec{Options: o, Inputs: in, Dir: scratch}
	for _, r := range rows {
		s.Rows = append(s.Rows, r.name)
	}
	if nix, err = equip(nix, strata, in); err != nil {
		return 0, err
	}
	return s.start(ctx, nix, kept)
}

func makeInputs(ctx context.Context, o options, nix *testenv.NixEnv, rows []row) (inputs, error) {
	a, err := archive()
	if err != nil {
		return inputs{}, err
	}
	tmp, err := os.MkdirTemp("/dev/shm", "strata-bench-")
	if err != nil {
		return inputs{}, err
	}
	defer testenv.RemoveAll(tmp)
	m := &maker{ctx: ctx, o: o, nix: nix, archive: a, tmp: tmp}
	return m.makeAll(rows)
}

// equip shows programs and inputs in the world. bubblewrap needs a library that
// the tree has not.
func equip(nix *testenv.NixEnv, strata string, in inputs) (*testenv.NixEnv, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if strata, err = filepath.Abs(strata); err != nil {
		return nil, err
	}
	if _, err := os.Stat(strata); err != nil {
		return nil, fmt.Errorf("%w; `make build` makes it", err)
	}
	nix = nix.WithBind(self, benchPath).WithBind(strata, strataPath)
	for name, at := range map[string]string{"busybox": shellPath, "bwrap": bwrapPath} {
		if path, err := exec.LookPath(name); err == nil {
			nix = nix.WithBind(path, at)
		}
	}
	libs, _ := filepath.Glob("/lib/*/libcap.so.2")
	for _, lib := range libs {
		if lib, err = filepath.EvalSymlinks(lib); err == nil {
			nix = nix.WithBind(lib, filepath.Join(libDir, "libcap.so.2"))
		}
	}
	for _, dir := range in.Dirs {
		nix = nix.WithBind(dir, dir)
	}
	return nix.With("NIX_CONFIG", nixConfig).With("PATH", toolDir+":/usr/sbin:/usr/bin:/sbin:/bin"), nil
}

// start runs the inner process and takes its reports as they come.
func (s spec) start(ctx context.Context, nix *testenv.NixEnv, kept *results) (failed int, err error) {
	arg, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	cmd := nix.Command(ctx, benchPath, innerName, string(arg))
	// The first process of a PID namespace takes all others with it.
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return failed, errors.Join(err, cmd.Cancel(), cmd.Wait())
		}
		if r.Result.Why != "" {
			failed++
		}
		kept.Rows[r.Row] = &r.Result
	}
	return failed, errors.Join(lines.Err(), cmd.Wait())
}

// world is the inside, as rows see it.
type world struct {
	o      options
	inputs inputs
	disk   string // a directory on a disk
	mem    string // a tmpfs
	kept   []fixture
}

// fixture is something that several rows use.
type fixture struct {
	key   string
	value any
	close func() error
}

// enterWorld makes what the inside needs besides what it was started with.
func enterWorld(s spec) (*world, error) {
	w := &world{o: s.Options, inputs: s.Inputs, disk: filepath.Join(s.Dir, "disk"), mem: filepath.Join(s.Dir, "mem")}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return nil, fmt.Errorf("mount /proc: %w", err)
	}
	if err := errors.Join(os.MkdirAll(w.disk, 0o755), os.MkdirAll(w.mem, 0o755)); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", w.mem, "tmpfs", 0, "size=6g,mode=755"); err != nil {
		return nil, fmt.Errorf("mount a tmpfs: %w", err)
	}
	return w, nil
}

// input is the directory of something that the row said it needs.
func (w *world) input(n need) string {
	dir := w.inputs.Dirs[n.String()]
	if dir == "" {
		panic("a row uses the input " + n.String() + " and does not say so")
	}
	return dir
}

// keep gives a fixture, which is made when it is asked for the first time.
func keep[T any](w *world, key string, make func() (T, func() error, error)) (T, error) {
	for _, f := range w.kept {
		if f.key == key {
			return f.value.(T), nil
		}
	}
	v, end, err := make()
	if err == nil {
		w.kept = append(w.kept, fixture{key, v, end})
	}
	return v, err
}

// drop ends all fixtures, the last first.
func (w *world) drop() error {
	var errs []error
	for i := len(w.kept) - 1; i >= 0; i-- {
		if end := w.kept[i].close; end != nil {
			errs = append(errs, end())
		}
	}
	w.kept = nil
	return errors.Join(errs...)
}

// fresh gives the path of an empty directory in memory, whose former contents go.
func (w *world) fresh(name string) (string, error) {
	dir := filepath.Join(w.mem, name)
	if err := testenv.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// firstLine is for messages that go into a table.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
