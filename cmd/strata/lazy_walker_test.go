package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// walkVar tells the test binary to be a process that reads from a mount.
const walkVar = "STRATA_TEST_LAZY_WALK"

// walkJob says what it reads.
type walkJob struct {
	At, Model string
	Objects   []string
	Seed      uint64
	Steps     int
}

// Each step is so many reads of one reader.
const (
	walkReaders = 3
	walkReads   = 25
)

// walkReader is that process.
func walkReader(text string) {
	var job walkJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var all sync.WaitGroup
	var once sync.Once
	failed := false
	for i := range walkReaders {
		all.Go(func() {
			w := &walker{walkJob: job, r: rand.New(rand.NewPCG(job.Seed, uint64(i)+100))}
			if err := w.run(); err != nil {
				once.Do(func() {
					failed = true
					fmt.Fprintf(os.Stderr, "reader %d of seed %d: %v\n", i, job.Seed, err)
				})
			}
		})
	}
	all.Wait()
	if failed {
		os.Exit(1)
	}
	os.Exit(0)
}

// walker reads at random, and compares.
type walker struct {
	walkJob
	r     *rand.Rand
	files []string // regular ones of the model, relative to it
	dirs  []string
	links []string
	held  []*heldFile
}

// heldFile is open, or mapped, for a while.
type heldFile struct {
	name   string
	fd     int
	mapped []byte
	want   []byte
}

// errLater says that something cannot be had for the moment.
var errLater = errors.New("later")

func (w *walker) run() error {
	if err := w.survey(); err != nil {
		return err
	}
	for range w.Steps {
		for range walkReads {
			err := w.one()
			if errors.Is(err, errLater) {
				time.Sleep(10 * time.Millisecond) // so that all is not over before it can be had again
			} else if err != nil {
				return err
			}
		}
		fmt.Println("read")
	}
	return nil
}

// survey finds what there is in the model.
func (w *walker) survey() error {
	for _, o := range w.Objects {
		err := filepath.WalkDir(filepath.Join(w.Model, o), func(path string, d fs.DirEntry, err error) error {
			name, rerr := filepath.Rel(w.Model, path)
			if err := errors.Join(err, rerr); err != nil {
				return err
			}
			switch {
			case d.IsDir():
				w.dirs = append(w.dirs, name)
			case d.Type() == fs.ModeSymlink:
				w.links = append(w.links, name)
			default:
				w.files = append(w.files, name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func anyOf[T any](w *walker, all []T) T { return all[w.r.IntN(len(all))] }

// file chooses a file: each directory as often as any other.
func (w *walker) file() string {
	dir := filepath.Dir(anyOf(w, w.files))
	if w.r.IntN(2) == 0 {
		return anyOf(w, w.files)
	}
	return anyOf(w, slices.DeleteFunc(slices.Clone(w.files), func(f string) bool { return strings.HasSuffix(filepath.Dir(f), "/many") && dir != filepath.Dir(f) }))
}

func (w *walker) one() error {
	switch w.r.IntN(12) {
	case 0, 1, 2:
		return w.pread(w.file())
	case 3:
		return w.whole(w.file())
	case 4, 5:
		return w.hold(w.file())
	case 6, 7:
		return w.again()
	case 8:
		return w.list(anyOf(w, w.dirs))
	case 9:
		return w.readlink(anyOf(w, w.links))
	case 10:
		return w.stat(anyOf(w, slices.Concat(w.dirs, w.links, w.files)))
	}
	return w.absent(anyOf(w, w.dirs))
}

// may tells what an error means: that it failed is allowed, and nothing else.
func (w *walker) may(op, name string, err error) error {
	if errors.Is(err, unix.EIO) {
		return errLater
	}
	if err != nil {
		return fmt.Errorf("%s '%s': %w", op, name, err)
	}
	return nil
}

// open opens a file. Every now and then the kernel forgets what it has of it.
func (w *walker) open(name string) (int, error) {
	fd, err := retry(func() (int, error) { return unix.Open(filepath.Join(w.At, name), unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, w.may("open", name, err)
	}
	if w.r.IntN(2) == 0 {
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	}
	return fd, nil
}

// retry does something again that a signal has interrupted, as of Go's runtime.
func retry(f func() (int, error)) (n int, err error) {
	for {
		if n, err = f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (w *walker) model(name string) ([]byte, error) { return os.ReadFile(filepath.Join(w.Model, name)) }

func (w *walker) pread(name string) error {
	want, err := w.model(name)
	if err != nil {
		return err
	}
	fd, err := w.open(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return w.compare(name, fd, want)
}

// compare reads a part of a file, perhaps beyond its end.
func (w *walker) compare(name string, fd int, want []byte) error {
	off := w.r.IntN(len(want) + 10)
	b := make([]byte, 1+w.r.IntN(300_000))
	n, err := retry(func() (int, error) { return unix.Pread(fd, b, int64(off)) })
	if err != nil {
		return w.may("read", name, err)
	}
	part := want[min(off, len(want)):min(off+len(b), len(want))]
	// Fewer bytes than there are come if the rest cannot be had.
	if n > len(part) || !bytes.Equal(b[:n], part[:n]) || n == 0 && len(part) > 0 {
		return fmt.Errorf("%d bytes of '%s' at %d are %d others", len(b), name, off, n)
	}
	return nil
}

// whole sends a whole file to another, in the kernel.
func (w *walker) whole(name string) error {
	want, err := w.model(name)
	if err != nil {
		return err
	}
	fd, err := w.open(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to, err := unix.MemfdCreate("copy", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(to), "copy")
	defer f.Close()
	for sent := 0; sent < len(want); {
		n, err := retry(func() (int, error) { return unix.Sendfile(to, fd, nil, len(want)) })
		if err != nil {
			return w.may("send", name, err)
		}
		if n == 0 {
			return fmt.Errorf("'%s' ends after %d bytes", name, sent)
		}
		sent += n
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	got, err := io.ReadAll(f)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("all of '%s' is something else", name)
	}
	return err
}

// hold opens or maps a file for a while.
func (w *walker) hold(name string) error {
	if len(w.held) >= 8 {
		i := w.r.IntN(len(w.held))
		h := w.held[i]
		w.held = slices.Delete(w.held, i, i+1)
		if h.mapped != nil {
			if err := unix.Munmap(h.mapped); err != nil {
				return err
			}
		}
		if err := unix.Close(h.fd); err != nil {
			return err
		}
	}
	want, err := w.model(name)
	if err != nil {
		return err
	}
	h := &heldFile{name: name, want: want}
	if h.fd, err = w.open(name); err != nil {
		return err
	}
	if len(want) > 0 && w.r.IntN(2) == 0 {
		flags := unix.MAP_PRIVATE
		if w.r.IntN(2) == 0 {
			flags = unix.MAP_SHARED
		}
		if h.mapped, err = unix.Mmap(h.fd, 0, len(want), unix.PROT_READ, flags); err != nil {
			return errors.Join(w.may("map", name, err), unix.Close(h.fd))
		}
	}
	w.held = append(w.held, h)
	return w.look(h)
}

// again looks at something that is held.
func (w *walker) again() error {
	if len(w.held) == 0 {
		return nil
	}
	return w.look(anyOf(w, w.held))
}

func (w *walker) look(h *heldFile) error {
	if w.r.IntN(2) == 0 {
		_ = unix.Fadvise(h.fd, 0, 0, unix.FADV_DONTNEED)
	}
	if h.mapped == nil {
		return w.compare(h.name, h.fd, h.want)
	}
	off := w.r.IntN(len(h.want))
	end := min(len(h.want), off+w.r.IntN(100_000))
	same, fault := compareMapped(h.mapped[off:end], h.want[off:end])
	if fault {
		return errLater // SIGBUS, as it cannot be had
	}
	if !same {
		return fmt.Errorf("what is mapped of '%s' from %d to %d is something else", h.name, off, end)
	}
	return nil
}

// compareMapped tells whether what is mapped cannot be had.
func compareMapped(mapped, want []byte) (same, fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			fault = true
		}
	}()
	return bytes.Equal(mapped, want), false
}

// list reads a directory, and a part of it twice.
func (w *walker) list(name string) error {
	want, err := os.ReadDir(filepath.Join(w.Model, name))
	if err != nil {
		return err
	}
	d, err := os.Open(filepath.Join(w.At, name))
	if err != nil {
		return w.may("open", name, err)
	}
	defer d.Close()
	got := map[string]fs.FileMode{}
	var names []string
	for {
		some, err := d.ReadDir(1 + w.r.IntN(300))
		for _, e := range some {
			names = append(names, e.Name())
			got[e.Name()] = e.Type()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return w.may("list", name, err)
		}
	}
	if len(names) != len(want) {
		return fmt.Errorf("'%s' has %d entries and should have %d", name, len(names), len(want))
	}
	for _, e := range want {
		if kind, ok := got[e.Name()]; !ok || kind != e.Type() {
			return fmt.Errorf("'%s' in '%s' is a %v, %v", e.Name(), name, kind, ok)
		}
	}
	if _, err := d.Seek(0, io.SeekStart); err != nil {
		return err
	}
	second, err := d.Readdirnames(-1)
	if err != nil {
		return w.may("list", name, err)
	}
	slices.Sort(names)
	slices.Sort(second)
	if !slices.Equal(names, second) {
		return fmt.Errorf("'%s' has other entries when it is read again", name)
	}
	return nil
}

func (w *walker) readlink(name string) error {
	want, err := os.Readlink(filepath.Join(w.Model, name))
	if err != nil {
		return err
	}
	got, err := os.Readlink(filepath.Join(w.At, name))
	if err != nil {
		return w.may("read the link", name, err)
	}
	if got != want {
		return fmt.Errorf("'%s' leads to '%s'", name, got)
	}
	return nil
}

func (w *walker) stat(name string) error {
	var want, got unix.Stat_t
	if err := unix.Lstat(filepath.Join(w.Model, name), &want); err != nil {
		return err
	}
	if _, err := retry(func() (int, error) { return 0, unix.Lstat(filepath.Join(w.At, name), &got) }); err != nil {
		return w.may("look at", name, err)
	}
	if want.Mode&unix.S_IFMT == unix.S_IFDIR {
		want.Size = got.Size
	}
	if got.Mode != want.Mode || got.Size != want.Size || got.Mtim.Sec != want.Mtim.Sec {
		return fmt.Errorf("'%s' has mode %o, %d bytes, and is of %d", name, got.Mode, got.Size, got.Mtim.Sec)
	}
	return nil
}

// absent looks for what is not there.
func (w *walker) absent(dir string) error {
	name := filepath.Join(dir, "not-there")
	if w.r.IntN(3) == 0 {
		name = anyOf(w, w.Objects)[:30] + "00-not-there" // the hash of none
	}
	var st unix.Stat_t
	_, err := retry(func() (int, error) { return 0, unix.Lstat(filepath.Join(w.At, name), &st) })
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		return fmt.Errorf("'%s' is there", name)
	}
	return w.may("look for", name, err)
}
