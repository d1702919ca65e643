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
	"time"

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
	World   string // the name of this world's own directory in there
}

// report is what it tells of a row.
type report struct {
	Row    string
	Result result
}

// runInWorld makes the inputs and runs the rows in a new world, which is gone
// when it returns. What came of a row is told to took as soon as it is known.
func runInWorld(ctx context.Context, o options, dir, strata string, rows []row, took func(row, *result) error) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("this needs root: stores of both sides are made, mounted and built in")
	}
	tree, err := testenv.Tree(ctx, nixVersion, false, os.Stderr)
	if err != nil {
		return fmt.Errorf("stock Nix %s: %w", nixVersion, err)
	}
	scratch, err := os.MkdirTemp(dir, "strata-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, testenv.RemoveAll(scratch)) }()
	nix, err := testenv.NixIn(tree, nixVersion, scratch)
	if err != nil {
		return err
	}
	in, err := makeInputs(ctx, o, nix, rows)
	if err != nil {
		return err
	}
	if nix, err = equip(nix, strata, in); err != nil {
		return err
	}
	return runRows(ctx, spec{Options: o, Inputs: in, Dir: scratch}, nix, rows, took)
}

// runRows runs rows in as many worlds as it takes: a row with which its world
// ends, or in which nothing comes to an end, has failed, and the rest goes on in
// the next.
func runRows(ctx context.Context, s spec, nix *testenv.NixEnv, rows []row, took func(row, *result) error) error {
	for n := 0; len(rows) > 0; n++ {
		s.World = fmt.Sprintf("world-%d", n)
		s.Rows = nil
		for _, r := range rows {
			s.Rows = append(s.Rows, r.name)
		}
		done := 0
		ended, err := s.start(ctx, nix, func(res *result) error {
			done++
			return took(rows[done-1], res)
		})
		if err = errors.Join(ctx.Err(), err); err != nil {
			return err
		}
		if rows = rows[done:]; len(rows) == 0 {
			return ended
		}
		why := "the process that measures has ended early"
		if ended != nil {
			why = firstLine(ended.Error())
		}
		if err := took(rows[0], &result{Why: why, Where: machine{Date: now()}}); err != nil {
			return err
		}
		rows = rows[1:]
	}
	return nil
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

// patience is how long a row may take. The slowest, five pairs of stock Nix
// loading a million paths, take half an hour.
const patience = 45 * time.Minute

// start runs the inner process and hands on its results as they come, in the
// order of the rows. How it ended is told apart from what went wrong here.
func (s spec) start(ctx context.Context, nix *testenv.NixEnv, took func(*result) error) (ended, err error) {
	arg, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := nix.Command(ctx, benchPath, innerName, string(arg))
	// The first process of a PID namespace takes all others with it.
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	watchdog := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		watchdog.Reset(patience)
		var r report
		err := json.Unmarshal(lines.Bytes(), &r)
		if err == nil {
			err = took(&r.Result)
		}
		if err != nil {
			cmd.Process.Kill()
			cmd.Wait() // killed
			return nil, err
		}
	}
	return cmd.Wait(), lines.Err()
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
	dir := filepath.Join(s.Dir, s.World)
	w := &world{o: s.Options, inputs: s.Inputs, disk: filepath.Join(dir, "disk"), mem: filepath.Join(dir, "mem")}
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

// drop ends all fixtures, the last first. One that does not end well is told
// and left behind; the rows after it do not depend on it.
func (w *world) drop(family string) {
	for i := len(w.kept) - 1; i >= 0; i-- {
		if end := w.kept[i].close; end != nil {
			if err := end(); err != nil {
				fmt.Fprintf(os.Stderr, "bench: after the rows of %s: %s: %v\n", family, w.kept[i].key, err)
			}
		}
	}
	w.kept = nil
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
