package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/strata-nix/strata/internal/corpus"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/registration"
	"github.com/strata-nix/strata/storepath"
)

// packing is how a cache for lazy reading is made.
type packing struct{ name, params string }

var (
	packedXZ    = packing{"xz", "compression=xz&compression-level=3&write-nar-listing=true"}
	packedIndex = packing{"index", "compression=zstd&seekable=true&write-nar-listing=true&write-file-index=true"}
)

// lazyRows run programs of which nothing is here yet.
func lazyRows(o options) []row {
	programs := []need{{kind: needPrograms}}
	var rows []row
	add := func(p testenv.Program, pack packing, l link, sooner, fewer float64) {
		name := fmt.Sprintf("lazy/%s-%s-%s", p.Name, pack.name, l.name())
		what := fmt.Sprintf("%s until it is done, from a cache (%s) %s", p.Name, pack.name, l.what())
		rows = append(rows,
			row{name: name, what: what + ", against nix copy and a run", unit: seconds, target: sooner, needs: programs, pairs: 3, run: startOf(p, pack, l, false)},
			row{name: name + "-bytes", what: "what comes for it", unit: mebibytes, target: fewer, needs: programs, pairs: 1, run: startOf(p, pack, l, true)})
	}
	packs := []packing{packedIndex, packedXZ}
	if o.Smoke {
		packs = packs[:1]
	}
	for _, p := range testenv.ProgramList() {
		for _, pack := range packs {
			sooner, fewer := 5.0, 10.0
			if pack == packedXZ {
				sooner, fewer = 2, 2.5
			}
			add(p, pack, farAway, sooner, fewer)
			if p.Name == "python" {
				add(p, pack, link{}, 0, 0)
			}
		}
	}
	python := testenv.ProgramList()[slices.IndexFunc(testenv.ProgramList(), func(p testenv.Program) bool { return p.Name == "python" })]
	rows = append(rows, row{name: "lazy/second-start", what: "python from an empty cache with a profile of its first start, against that one, " + farAway.what(), unit: seconds,
		needs: programs, pairs: 3, run: secondStart(python)})
	return append(rows, lazyWarmRows(o)...)
}

// programStore is what programs are copied from, and which objects belong to which.
type programStore struct {
	root  string // a root directory
	infos map[storepath.Path][]storepath.Path
	key   string // public, of who has signed caches
}

func (w *world) programStore(ctx context.Context) (*programStore, error) {
	return keep(w, "programs", func() (*programStore, func() error, error) {
		dir := w.input(need{kind: needPrograms})
		p := &programStore{root: filepath.Join(dir, storeDir), infos: map[storepath.Path][]storepath.Path{}}
		f, err := os.Open(filepath.Join(dir, corpus.RegistrationFile))
		if err != nil {
			return nil, nil, err
		}
		defer f.Close()
		for info, err := range registration.Read(f, storepath.DefaultDir) {
			if err != nil {
				return nil, nil, err
			}
			p.infos[info.Path] = info.References
		}
		secret, err := exec.CommandContext(ctx, strataPath, "key", "generate", "bench-1").Output()
		if err == nil {
			err = os.WriteFile(w.secretKey(), secret, 0o600)
		}
		if err != nil {
			return nil, nil, err
		}
		public, err := exec.CommandContext(ctx, strataPath, "key", "public", w.secretKey()).Output()
		p.key = strings.TrimSpace(string(public))
		return p, nil, err
	})
}

func (w *world) secretKey() string { return filepath.Join(w.mem, "lazy-secret") }

// closure are the objects that a program needs, and those among them that it asks for.
func (s *programStore) closure(p testenv.Program) (roots []string, all []string) {
	seen := storepath.Set{}
	var visit func(storepath.Path)
	visit = func(path storepath.Path) {
		if !seen.Add(path) {
			return
		}
		for _, r := range s.infos[path] {
			visit(r)
		}
	}
	for path := range s.infos {
		for _, name := range p.Packages {
			if rest, ok := strings.CutPrefix(path.Name(), name+"-"); ok && rest[0] >= '0' && rest[0] <= '9' {
				roots = append(roots, storepath.DefaultDir.Print(path))
				visit(path)
			}
		}
	}
	for _, path := range seen.Sorted() {
		all = append(all, path.Base())
	}
	slices.Sort(roots)
	return roots, all
}

// cache is a binary cache of all programs.
func (w *world) lazyCache(ctx context.Context, pack packing) (string, error) {
	s, err := w.programStore(ctx)
	if err != nil {
		return "", err
	}
	return keep(w, "lazy cache "+pack.name, func() (string, func() error, error) {
		dir := filepath.Join(w.disk, "lazy-cache-"+pack.name)
		args := []string{strataPath, "push", "--store", "local?read-only=true&root=" + s.root, "--key-file", w.secretKey(), "file://" + dir + "?" + pack.params}
		for path := range s.infos {
			args = append(args, storepath.DefaultDir.Print(path))
		}
		return dir, func() error { return testenv.RemoveAll(dir) }, do(ctx, args...)
	})
}

// started is a program that has run.
type started struct {
	took   time.Duration
	bytes  int64
	answer string
}

func (s started) sample(bytes bool) sample {
	if bytes {
		return sample{Value: float64(s.bytes) / (1 << 20), answer: s.answer}
	}
	return sample{Value: s.took.Seconds(), answer: s.answer}
}

// startOf runs a program from a cache.
func startOf(p testenv.Program, pack packing, l link, bytes bool) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		at, err := w.fresh("lazy")
		if err != nil {
			return sample{}, err
		}
		defer testenv.RemoveAll(at)
		run := w.fromMount
		if s == stock {
			run = w.fromCopy
		}
		got, err := run(ctx, p, pack, l, at)
		return got.sample(bytes), err
	}
}

// served serves a cache while do runs.
func (w *world) served(ctx context.Context, pack packing, l link, do func(*cacheServer) error) error {
	dir, err := w.lazyCache(ctx, pack)
	if err != nil {
		return err
	}
	s, err := serveCache(http.FileServer(http.Dir(dir)), l)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.close())
}

// fromCopy copies the closure of a program, and runs it.
func (w *world) fromCopy(ctx context.Context, p testenv.Program, pack packing, l link, at string) (got started, err error) {
	store, err := w.programStore(ctx)
	if err != nil {
		return got, err
	}
	roots, objects := store.closure(p)
	root, home := filepath.Join(at, "root"), filepath.Join(at, "home")
	err = w.served(ctx, pack, l, func(s *cacheServer) error {
		begin := time.Now()
		copying := exec.CommandContext(ctx, "nix", append([]string{"copy", "--no-check-sigs", "--from", s.uri, "--to", root}, roots...)...)
		copying.Env = append(os.Environ(), "XDG_CACHE_HOME="+home)
		if out, err := copying.CombinedOutput(); err != nil {
			return fmt.Errorf("nix copy: %w: %s", err, bytes.TrimSpace(out))
		}
		got.answer, err = runProgram(p, filepath.Join(at, "system"), filepath.Join(root, "nix/store"), objects)
		got.took, got.bytes = time.Since(begin), s.sent.Load()
		return err
	})
	return got, err
}

// runProgram runs a program in a system of some objects.
func runProgram(p testenv.Program, at, store string, objects []string) (answer string, err error) {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", err
	}
	root, end, err := testenv.System(at, store, objects)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, end()) }()
	out, err := p.Command(root).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", p.Name, err, bytes.TrimSpace(out))
	}
	return digest(out), nil
}

// fromMount runs a program from a lazy mount.
func (w *world) fromMount(ctx context.Context, p testenv.Program, pack packing, l link, at string) (got started, err error) {
	store, err := w.programStore(ctx)
	if err != nil {
		return got, err
	}
	_, objects := store.closure(p)
	err = w.served(ctx, pack, l, func(s *cacheServer) error {
		begin := time.Now()
		m, err := startMount(ctx, at, s.uri, "--option", "trusted-public-keys", store.key)
		if err != nil {
			return err
		}
		if got.answer, err = runProgram(p, filepath.Join(at, "system"), m.dir, objects); err != nil {
			err = fmt.Errorf("%w: %s", err, lastLine(m.log))
		}
		got.took, got.bytes = time.Since(begin), s.sent.Load()
		return errors.Join(err, m.stop())
	})
	return got, err
}

// lazyMount is a mount that is served.
type lazyMount struct {
	cmd   *exec.Cmd
	dir   string
	log   *os.File
	ready time.Duration // how long it took
}

// startMount mounts a cache at at/mnt, with what is kept in at/kept.
func startMount(ctx context.Context, at, uri string, options ...string) (*lazyMount, error) {
	m := &lazyMount{dir: filepath.Join(at, "mnt")}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if m.log, err = os.Create(filepath.Join(at, "log")); err != nil {
		return nil, err
	}
	m.cmd = exec.CommandContext(ctx, strataPath, append([]string{"lazy", "mount", "--cache", filepath.Join(at, "kept"), uri, m.dir}, options...)...)
	m.cmd.Env = append(os.Environ(), "STRATA_RUNTIME_DIR="+filepath.Join(at, "run"), "XDG_CACHE_HOME="+filepath.Join(at, "home"))
	m.cmd.Stderr = m.log
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	b := make([]byte, 4096)
	n, err := out.Read(b)
	m.ready = time.Since(begin)
	if err != nil || !bytes.HasPrefix(b[:n], []byte("ready: ")) {
		return nil, errors.Join(fmt.Errorf("strata lazy mount: %s", lastLine(m.log)), m.stop())
	}
	return m, nil
}

func (m *lazyMount) stop() error {
	defer m.log.Close()
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return nil // it has ended already
	}
	if err := m.cmd.Wait(); err != nil {
		return fmt.Errorf("strata lazy mount: %w: %s", err, lastLine(m.log))
	}
	return nil
}

// secondStart runs a program from a mount whose cache is empty; ours had a first start, of which
// there is a profile.
func secondStart(p testenv.Program) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		at, err := w.fresh("lazy")
		if err != nil {
			return sample{}, err
		}
		defer testenv.RemoveAll(at)
		got, err := w.fromMount(ctx, p, packedIndex, farAway, at)
		if err != nil || s == stock {
			return got.sample(false), err
		}
		// What was read goes, and what was learnt stays.
		if err := do(ctx, strataPath, "lazy", "evict", "--cache", filepath.Join(at, "kept"), "--all"); err != nil {
			return sample{}, err
		}
		got, err = w.fromMount(ctx, p, packedIndex, farAway, at)
		return got.sample(false), err
	}
}
