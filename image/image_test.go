package image

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/internal/mount"
	"github.com/strata-nix/strata/internal/testenv"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func put(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func changed(data []byte, at int, with ...byte) []byte {
	out := append([]byte(nil), data...)
	copy(out[at:], with)
	return out
}

func TestDetect(t *testing.T) {
	erofs, squash := fixture(t, "small.erofs"), fixture(t, "small.squashfs")
	tests := []struct {
		name string
		data []byte
		want Header
		err  error
		says string
	}{
		{"erofs", erofs, Header{EROFS, 4096}, nil, ""},
		{"squashfs", squash, Header{SquashFS, int64(binary.LittleEndian.Uint64(squash[squashUsed:]))}, nil, ""},
		{"erofs cut off", erofs[:2048], Header{}, ErrTruncated, "4096"},
		{"erofs cut off in the header", erofs[:1100], Header{}, ErrUnknownFormat, ""},
		{"squashfs cut off", squash[:200], Header{}, ErrTruncated, "200"},
		{"squashfs cut off in the header", squash[:90], Header{}, ErrUnknownFormat, ""},
		{"squashfs 3", changed(squash, squashMajor, 3), Header{}, ErrUnsupported, "version 3"},
		{"squashfs of absurd size", changed(squash, squashUsed+7, 0xff), Header{}, ErrUnsupported, ""},
		{"erofs of absurd size", changed(erofs, erofsAt+erofsBlocks, 0xff, 0xff, 0xff, 0xff), Header{}, ErrTruncated, ""},
		{"erofs of 48 bits", changed(changed(erofs, erofsAt+erofsIncompat, 0x80), erofsAt+erofsBlocksHigh, 1, 0), Header{}, ErrTruncated, "17592186048512"},
		{"erofs block size", changed(erofs, erofsAt+erofsBlockBits, 63), Header{}, ErrUnsupported, "2^63"},
		{"erofs with devices", changed(erofs, erofsAt+erofsDevices, 2), Header{}, ErrUnsupported, "2 more devices"},
		{"empty", nil, Header{}, ErrUnknownFormat, "empty"},
		{"text", []byte("hello"), Header{}, ErrUnknownFormat, ""},
		{"gzip", []byte{0x1f, 0x8b, 8}, Header{}, ErrUnknownFormat, "gzip"},
		{"nar", []byte("\r\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00"), Header{}, ErrUnknownFormat, "NAR"},
		{"ext4", changed(make([]byte, 4096), 1080, 0x53, 0xef), Header{}, ErrUnknownFormat, "ext4"},
		{"partitions", changed(make([]byte, 4096), 510, 0x55, 0xaa), Header{}, ErrUnknownFormat, "partitions"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := put(t, filepath.Join(t.TempDir(), "image"), tt.data)
			got, err := Detect(path)
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Fatalf("got %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), path)) {
				t.Errorf("%q does not mention %q and the path", err, tt.says)
			}
		})
	}
}

func TestDetectOtherThings(t *testing.T) {
	dir := t.TempDir()
	if h, err := Detect(dir); err != nil || h.Kind != Directory {
		t.Errorf("directory: %+v %v", h, err)
	}
	if _, err := Detect(filepath.Join(dir, "nope")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := Detect("/dev/null"); !errors.Is(err, ErrUnknownFormat) {
		t.Errorf("/dev/null: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Detect(fifo); !errors.Is(err, ErrUnknownFormat) {
		t.Errorf("a FIFO: %v", err)
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, name := range []string{"small.erofs", "small.squashfs"} {
		f.Add(fixture(f, name)[:headerSize])
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		h, err := ParseHeader(head)
		if err == nil && (h.Size < 0 || h.Kind == Auto) {
			t.Errorf("%+v", h)
		}
		if err != nil && !errors.Is(err, ErrUnknownFormat) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("untyped error %v", err)
		}
	})
}

// show mounts and returns what is in the object of the fixtures.
func show(t *testing.T, o Options) *Mounted {
	t.Helper()
	m, err := Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(o.Target, unix.MNT_DETACH) })
	data, err := os.ReadFile(filepath.Join(o.Target, "obj/link"))
	if err != nil || string(data) != "hello from an image\n" {
		t.Errorf("%q %v", data, err)
	}
	if err := os.WriteFile(filepath.Join(o.Target, "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v", err)
	}
	if state, err := m.Record.Recognise(); state != mount.Mounted {
		t.Errorf("%v %v", state, err)
	}
	stack, err := mount.StackAt(o.Target)
	if err != nil || len(stack) == 0 {
		t.Fatal(stack, err)
	}
	if top := stack[len(stack)-1]; !strings.HasPrefix(top.VFSOptions, "ro,nosuid,nodev") || top.FSType != m.Record.FSType {
		t.Errorf("%+v", top)
	}
	return m
}

// loops lists the loop devices that have a file of the directory behind them.
func loops(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range all {
		data, _ := os.ReadFile(f)
		if strings.HasPrefix(string(data), dir) {
			out = append(out, f)
		}
	}
	return out
}

func TestImagesAreShownReadOnly(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.PrivilegedRoot(t)
	for _, kind := range []Kind{EROFS, SquashFS} {
		for _, name := range []string{"plain", "blank and,comma:\n", strings.Repeat("long/", 60) + "x"} {
			dir := testenv.Scratch(t)
			target := filepath.Join(dir, "target")
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
			source := put(t, filepath.Join(dir, name), fixture(t, "small."+kind.String()))
			m := show(t, Options{Source: source, Target: target})
			if m.Kind != kind || m.Record.Source != source {
				t.Errorf("%+v", m)
			}
			// The file may be replaced meanwhile.
			if err := os.Remove(source); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(filepath.Join(target, "obj/bin/hello"))
			if err != nil {
				t.Fatal(err)
			}
			var busy *mount.BusyError
			if err := m.Unmount(t.Context(), false); !errors.As(err, &busy) || len(busy.Holders) != 1 || busy.Holders[0].PID != os.Getpid() {
				t.Errorf("%v", err)
			}
			f.Close()
			if err := m.Unmount(t.Context(), false); err != nil {
				t.Error(err)
			}
			if left := loops(t, dir); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		}
	}
}

// Before Linux 6.12 EROFS needs a loop device too.
func TestEROFSThroughALoopDevice(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.PrivilegedRoot(t)
	dir := testenv.Scratch(t)
	file, err := os.Open(put(t, filepath.Join(dir, "image"), fixture(t, "small.erofs")))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	loop, err := attachLoop(file)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	m := show(t, Options{Source: loop.Name(), Target: target})
	loop.Close()
	if got := loops(t, dir); len(got) != 1 {
		t.Errorf("loop devices while mounted: %q", got)
	}
	if err := m.Unmount(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := loops(t, dir); len(got) != 0 {
		t.Errorf("loop devices afterwards: %q", got)
	}
}

func TestDirectoriesAreShownReadOnlyEverywhere(t *testing.T) {
	for name, ns := range map[string]testenv.Namespace{"plain": {}, "user": {User: true}} {
		t.Run(name, func(t *testing.T) {
			if !testenv.Isolate(t, ns) {
				return
			}
			dir := testenv.Scratch(t)
			put(t, filepath.Join(dir, "lower/obj/bin/hello"), []byte("hello from an image\n"))
			if err := os.Symlink("bin/hello", filepath.Join(dir, "lower/obj/link")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("lower", filepath.Join(dir, "via")); err != nil {
				t.Fatal(err)
			}
			target := filepath.Join(dir, "target")
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
			m := show(t, Options{Source: filepath.Join(dir, "via"), Target: target})
			if err := m.Unmount(t.Context(), false); err != nil {
				t.Error(err)
			}
			put(t, filepath.Join(dir, "lower/still-writable"), nil)
		})
	}
}

func TestUnprivilegedImageMountSaysSo(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{User: true}) {
		return
	}
	_, err := Mount(t.Context(), Options{Source: "testdata/small.erofs", Target: testenv.Scratch(t)})
	if !errors.Is(err, ErrPrivilege) {
		t.Error(err)
	}
}

func TestRefusedMountsLeaveNothing(t *testing.T) {
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	testenv.PrivilegedRoot(t)
	dir := testenv.Scratch(t)
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	good := put(t, filepath.Join(dir, "good"), fixture(t, "small.squashfs"))
	// A header that looks right over a root that does not.
	spoilt := put(t, filepath.Join(dir, "spoilt"), changed(fixture(t, "small.squashfs"), 32, 0xff, 0xff))
	stop := errors.New("stop")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx context.Context
		o   Options
		ok  func(error) bool
	}{
		"another kind":   {t.Context(), Options{Source: good, Target: target, Kind: EROFS}, func(err error) bool { return strings.Contains(err.Error(), "expected erofs") }},
		"no target":      {t.Context(), Options{Source: good, Target: target + "x"}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
		"target is file": {t.Context(), Options{Source: good, Target: good}, func(err error) bool { return errors.Is(err, unix.ENOTDIR) }},
		"no source":      {t.Context(), Options{Source: good + "x", Target: target}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
		"not recorded":   {t.Context(), Options{Source: good, Target: target, BeforeAttach: func(Record) error { return stop }}, func(err error) bool { return errors.Is(err, stop) }},
		"cancelled":      {cancelled, Options{Source: good, Target: target}, func(err error) bool { return errors.Is(err, context.Canceled) }},
		"spoilt image": {t.Context(), Options{Source: spoilt, Target: target}, func(err error) bool {
			var ce *mount.ConfigError
			return errors.As(err, &ce) && ce.Step == "create"
		}},
	} {
		_, err := Mount(tt.ctx, tt.o)
		var ie *Error
		if err == nil || !tt.ok(err) || !errors.As(err, &ie) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if stack, err := mount.StackAt(target); err != nil || len(stack) != 0 {
		t.Errorf("mounted: %v %v", stack, err)
	}
	if left := loops(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
