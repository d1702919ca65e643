package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/lazy"
	"github.com/strata-nix/strata/storepath"
)

// lazyWarmRows read what is here, and ask what all of it costs.
func lazyWarmRows(o options) []row {
	programs := []need{{kind: needPrograms}}
	files := o.scaled(million, 1000)
	return []row{
		{name: "lazy/find", what: "find over complete objects of a lazy lower, against overlay on a disk", unit: seconds, target: 0.9, needs: programs, run: warm(findAll)},
		{name: "lazy/stat", what: "stat of each of their files", unit: seconds, target: 0.9, needs: programs, run: warm(statAll)},
		{name: "lazy/small-files", what: "reading their small files", unit: seconds, target: 0.9, needs: programs, run: warm(readSmall)},
		{name: "lazy/sequential", what: "reading their large files", unit: seconds, target: 0.9, needs: programs, run: warm(readLarge)},
		{name: "lazy/mount", what: fmt.Sprintf("mounting a cache of %d objects", files), unit: millis, limit: 50, alone: true, run: mountMany(files)},
		{name: "lazy/memory", what: fmt.Sprintf("memory of who serves a mount of which %d files are known", files), unit: mebibytes, limit: 100, alone: true,
			pairs: 1, run: knownFiles(files)},
	}
}

// warmTrees are the same objects below an overlay on a disk, and complete below a stack with a
// lazy lower.
type warmTrees struct {
	dirs  [2]string
	names []string // of objects
}

func warm(read func(dir string, names []string) (int64, error)) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, s side) (sample, error) {
		t, err := keep(w, "lazy warm", func() (*warmTrees, func() error, error) { return w.warmTrees(ctx) })
		if err != nil {
			return sample{}, err
		}
		if _, err := read(t.dirs[s], t.names); err != nil { // the kernel has it then
			return sample{}, err
		}
		// The quickest of several is the one that others on the machine have held up least: each takes less
		// than a tenth of a second.
		got := sample{Value: math.Inf(1)}
		for range warmRounds {
			begin := time.Now()
			n, err := read(t.dirs[s], t.names)
			if err != nil {
				return sample{}, err
			}
			got.Value, got.answer = min(got.Value, time.Since(begin).Seconds()), fmt.Sprint(n)
		}
		return got, nil
	}
}

// warmRounds is how often what is warm is read for a figure.
const warmRounds = 10

func (w *world) warmTrees(ctx context.Context) (_ *warmTrees, end func() error, err error) {
	store, err := w.programStore(ctx)
	if err != nil {
		return nil, nil, err
	}
	cache, err := w.lazyCache(ctx, packedIndex)
	if err != nil {
		return nil, nil, err
	}
	t := &warmTrees{}
	for path := range store.infos {
		t.names = append(t.names, path.Base())
	}
	at := filepath.Join(w.disk, "warm")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return nil, nil, err
	}
	var ends []func() error
	end = func() error {
		var err error
		for i := len(ends) - 1; i >= 0; i-- {
			err = errors.Join(err, ends[i]())
		}
		return errors.Join(err, testenv.RemoveAll(at))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()
	// A copy on the same disk.
	plain := filepath.Join(at, "plain")
	if err := do(ctx, "cp", "-a", filepath.Join(store.root, "nix/store"), plain); err != nil {
		return nil, nil, err
	}
	// Both are as deep below the root, since each step of a path costs a look-up.
	t.dirs[stock] = filepath.Join(at, "base", "nix/store")
	unmounted, err := mountOverlay(plain, filepath.Join(at, "overlay"), t.dirs[stock])
	if err != nil {
		return nil, nil, err
	}
	ends = append(ends, unmounted)
	root := filepath.Join(at, "root")
	t.dirs[ours] = filepath.Join(root, "nix/store")
	config := fmt.Sprintf("upper.dir = %q\nroot = %q\n[[lower]]\nlazy = [%q]\ncache = %q\n", filepath.Join(at, "up"), root, "file://"+cache+"?trusted=true", filepath.Join(at, "kept"))
	file := filepath.Join(at, "strata.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, nil, err
	}
	if err := do(ctx, strataPath, "up", "-d", "-c", file, "--option", "trusted-public-keys", store.key); err != nil {
		return nil, nil, err
	}
	ends = append(ends, func() error { return do(context.WithoutCancel(ctx), strataPath, "down", "up") })
	prefetch := []string{strataPath, "lazy", "prefetch", "--no-closure"}
	for path := range store.infos {
		prefetch = append(prefetch, storepath.DefaultDir.Print(path))
	}
	if err := do(ctx, prefetch...); err != nil {
		return nil, nil, err
	}
	if err := isComplete(ctx, len(t.names)); err != nil {
		return nil, nil, err
	}
	// What is complete shows from the next look on.
	return t, end, do(ctx, strataPath, "refresh", "up")
}

// isComplete makes sure that the only mount has so many complete objects, which are read past it: otherwise it would be FUSE
// that is measured.
func isComplete(ctx context.Context, objects int) error {
	out, err := exec.CommandContext(ctx, strataPath, "lazy", "status", "--json").Output()
	if err != nil {
		return err
	}
	var all []struct {
		Serving *lazy.Report `json:"serving"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return err
	}
	if len(all) != 1 || all[0].Serving == nil || all[0].Serving.Objects.Graduated != int64(objects) {
		return fmt.Errorf("not all of %d objects are complete: %s", objects, out)
	}
	return nil
}

// walkAll looks at all files of objects.
func walkAll(dir string, names []string, f func(path string, d fs.DirEntry) error) error {
	for _, name := range names {
		err := filepath.WalkDir(filepath.Join(dir, name), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return f(path, d)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func findAll(dir string, names []string) (n int64, err error) {
	err = walkAll(dir, names, func(string, fs.DirEntry) error { n++; return nil })
	return n, err
}

func statAll(dir string, names []string) (n int64, err error) {
	var st unix.Stat_t
	err = walkAll(dir, names, func(path string, d fs.DirEntry) error {
		err := unix.Lstat(path, &st)
		if !d.IsDir() {
			n += st.Size
		}
		return err
	})
	return n, err
}

// smallFile is the size up to which a file is a small one.
const smallFile = 16 << 10

func readSmall(dir string, names []string) (int64, error) {
	return readFiles(dir, names, func(size int64) bool { return size <= smallFile })
}

func readLarge(dir string, names []string) (int64, error) {
	return readFiles(dir, names, func(size int64) bool { return size > smallFile<<4 })
}

// readFiles reads what is chosen by its size.
func readFiles(dir string, names []string, chosen func(size int64) bool) (n int64, err error) {
	buf := make([]byte, 1<<20)
	err = walkAll(dir, names, func(path string, d fs.DirEntry) error {
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil || !chosen(info.Size()) {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for {
			k, err := f.Read(buf)
			n += int64(k)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return n, err
}

// invented is a cache with any number of objects, each with so many files that nobody can read.
type invented struct{ objects, files int }

func (c invented) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	hash, kind, _ := strings.Cut(name, ".")
	switch {
	case name == "nix-cache-info":
		fmt.Fprintln(w, "StoreDir: /nix/store")
	case len(hash) == hashLen && kind == "narinfo":
		fmt.Fprintf(w, "StorePath: /nix/store/%s-invented\nURL: nar/%s.nar\nCompression: none\nNarHash: sha256:%052d\nNarSize: %d\nReferences: \n", hash, hash, 0, inventedDir+inventedFile*c.files)
	case len(hash) == hashLen && kind == "ls":
		var b strings.Builder
		b.WriteString(`{"version":1,"root":{"type":"directory","entries":{`)
		for i := range c.files {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `"file-with-a-name-%06d":{"type":"regular","size":1000,"narOffset":%d}`, i, inventedDir+inventedFile*i)
		}
		b.WriteString("}}}")
		_, _ = io.WriteString(w, b.String())
	default:
		http.NotFound(w, r)
	}
}

// Sizes in a NAR: of an empty directory, and of a file of 1000 bytes with its name.
const (
	inventedDir  = 96
	inventedFile = 1200
)

// hashLen is the length of a hash part.
const hashLen = 32

// object is the name of one.
func (invented) object(i int) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	r := rand.New(rand.NewPCG(uint64(i), 1))
	var hash [hashLen]byte
	for k := range hash {
		hash[k] = digits[r.IntN(len(digits))]
	}
	return string(hash[:]) + "-invented"
}

// mounted mounts an invented cache while do runs.
func (c invented) mounted(ctx context.Context, w *world, do func(*lazyMount) error) error {
	at, err := w.fresh("lazy")
	if err != nil {
		return err
	}
	defer testenv.RemoveAll(at)
	s, err := serveCache(c, link{})
	if err != nil {
		return err
	}
	m, err := startMount(ctx, at, s.uri+"?trusted=true")
	if err == nil {
		if err = do(m); err != nil {
			err = fmt.Errorf("%w: %s", err, lastLine(m.log))
		}
		err = errors.Join(err, m.stop())
	}
	return errors.Join(err, s.close())
}

func mountMany(n int) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, _ side) (got sample, err error) {
		err = invented{objects: n, files: 1}.mounted(ctx, w, func(m *lazyMount) error {
			got.Value = float64(m.ready) / float64(time.Millisecond)
			_, err := os.Lstat(filepath.Join(m.dir, invented{}.object(1)))
			return err
		})
		return got, err
	}
}

// knownFiles lists objects with n files together, and looks how much memory that takes.
func knownFiles(n int) func(context.Context, *world, side) (sample, error) {
	return func(ctx context.Context, w *world, _ side) (got sample, err error) {
		c := invented{files: max(n/100, 1), objects: 100}
		err = c.mounted(ctx, w, func(m *lazyMount) error {
			seen := 0
			for i := range c.objects {
				entries, err := os.ReadDir(filepath.Join(m.dir, c.object(i)))
				if err != nil {
					return err
				}
				seen += len(entries)
			}
			if seen != c.objects*c.files {
				return fmt.Errorf("there are %d files, and not %d", seen, c.objects*c.files)
			}
			got.Value = pss(m.cmd.Process.Pid)
			return nil
		})
		return got, err
	}
}
