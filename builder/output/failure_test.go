package output_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// fails must fail with a status and a message that has a part; in parts of paths,
// {out} and the like are filled in.
func (w *world) fails(t *testing.T, job *output.Job, o output.Options, status store.BuildStatus, part string) *output.Failure {
	t.Helper()
	_, err := output.Register(t.Context(), w.backing, job, o)
	var f *output.Failure
	if !errors.As(err, &f) || f.Status != status || !strings.Contains(f.Message, part) {
		t.Fatalf("status %d, %v; want %d, …%s…", func() store.BuildStatus {
			if f == nil {
				return 0
			}
			return f.Status
		}(), err, status, part)
	}
	if _, err := os.Lstat(filepath.Join(w.RealDir(), gc.TempName)); err == nil {
		t.Error("temporary files are left")
	}
	return f
}

func TestRejectedOutputs(t *testing.T) {
	mkdir := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		o     derivation.Output
		make  func(t *testing.T, out string)
		want  string // {path} is where the output lies
		files []file
	}{
		{name: "missing", want: "failed to produce output path for output 'out' at \"{path}\""},
		{name: "FIFO", want: "file \"{path}\" has an unsupported type", make: func(t *testing.T, out string) {
			if err := unix.Mkfifo(out, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "socket inside", want: "file \"{path}/sock\" has an unsupported type", make: func(t *testing.T, out string) {
			mkdir(t, out)
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Close(fd) }()
			// A path of more than 108 bytes is reached by way of its directory.
			dir, err := os.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = dir.Close() }()
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/sock", dir.Fd())}); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "writable for all", want: "suspicious ownership or permission on \"{path}\" for output 'out'; rejecting this build output", make: func(t *testing.T, out string) {
			mkdir(t, out)
			if err := os.Chmod(out, 0o777); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "too deep", want: "exceeds the maximum NAR directory depth", make: func(t *testing.T, out string) {
			if err := os.MkdirAll(out+strings.Repeat("/d", nar.MaxDepth), 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "flat directory", o: fixed(storepath.Flat, nixhash.Of(nixhash.SHA256, "")), files: []file{{"out", "a", ""}},
			want: "output path \"{path}\" should be a non-executable regular file since recursive hashing is not enabled"},
		{name: "flat executable", o: floating(storepath.Flat), want: "should be a non-executable regular file", make: func(t *testing.T, out string) {
			if err := os.WriteFile(out, nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "flat symlink", o: floating(storepath.Flat), files: []file{{"out", "", "->/etc/passwd"}}, want: "should be a non-executable regular file"},
		{name: "text with itself", o: floating(storepath.Text), files: []file{{"out", "", "{out}"}}, want: "self-reference not allowed with text hashing"},
		{name: "flat with references", o: floating(storepath.Flat), files: []file{{"out", "", "{dep}"}},
			want: "fixed output derivation 'x' is not allowed to refer to other store paths.\nYou may need to use the 'unsafeDiscardReferences'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			dep := w.add(t, storetest.File(t, w.Dir(), "dep", "dep"))
			if c.o.Kind == 0 {
				c.o = inputAddressed
			}
			job := w.job(t, basic(c.o, "out"), atFinal, dep)
			out := job.Outputs["out"]
			if c.make != nil {
				c.make(t, out.Real)
			}
			w.build(t, job, c.files...)
			before := w.objects(t)
			w.fails(t, job, output.Options{}, store.OutputRejected, strings.ReplaceAll(c.want, "{path}", out.Real))
			if after := w.objects(t); !slices.Equal(before, after) {
				t.Errorf("in the store are %q, before there were %q", after, before)
			}
		})
	}
}

// A build user must not get hold of files of others by hard links.
func TestFilesOfStrangers(t *testing.T) {
	testenv.PrivilegedRoot(t)
	w := newWorld(t)
	job := w.job(t, basic(inputAddressed, "out"), atFinal)
	w.build(t, job, file{"out", "a", "a"})
	out := job.Outputs["out"].Real
	user := output.Owner{UID: 30001, GID: 30000}
	options := output.Options{Builder: &user}
	w.fails(t, job, options, store.OutputRejected, "suspicious ownership or permission")
	if err := os.Lchown(out, 30001, 30000); err != nil {
		t.Fatal(err)
	}
	w.fails(t, job, options, store.OutputRejected, "invalid ownership on file \""+out+"/a\"")
	if st, err := os.Stat(filepath.Join(out, "a")); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("the stranger's file was changed: %v, %v", st.Mode(), err)
	}
	// The range may own what is inside, the top belongs to its first user.
	if err := os.Lchown(filepath.Join(out, "a"), 30005, 30000); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(out, 30001, 30000); err != nil {
		t.Fatal(err)
	}
	options.Owners = &nar.UIDRange{First: 30001, Last: 30010}
	w.register(t, job, options)
	st, err := os.Lstat(filepath.Join(w.RealDir(), job.Outputs["out"].Path.Base(), "a"))
	if err != nil || st.Mode() != 0o444 || st.ModTime().Unix() != 1 {
		t.Errorf("%v, %v", st, err)
	}
}

func TestOutputsThatReferToEachOther(t *testing.T) {
	w := newWorld(t)
	job := w.job(t, basic(inputAddressed, "a", "b", "c"), atFinal)
	w.build(t, job, file{"a", "", "{b}"}, file{"b", "", "{c}"}, file{"c", "", "{a}"})
	w.fails(t, job, output.Options{}, store.OutputRejected,
		"cycle detected in build of '"+w.Dir().Print(job.DrvPath)+"' in the references of output 'a' from output 'c'")
}

// A file name with the hash part changes, and must not change its place by it.
func TestRewritingFileNames(t *testing.T) {
	w := newWorld(t)
	job := w.job(t, basic(inputAddressed, "out"), elsewhere)
	name := "lib-" + job.Outputs["out"].Scratch.HashPart()
	w.build(t, job, file{"out", name, "x"})
	w.register(t, job, output.Options{})
	final := job.Outputs["out"].Path
	if w.read(t, final, "lib-"+final.HashPart()) != "x" {
		t.Error("the file is another")
	}

	job = w.job(t, basic(floating(storepath.Recursive), "out"), elsewhere)
	w.build(t, job, file{"out", name[:4] + job.Outputs["out"].Scratch.HashPart(), "x"},
		file{"out", "lib-0", ""}, file{"out", "lib-zzzz", ""}, file{"out", "lib-" + strings.Repeat("h", 32), ""})
	for _, c := range "13579bdfhjlnprtvxz" {
		w.build(t, job, file{"out", "lib-" + string(c), ""})
	}
	_, err := output.Register(t.Context(), w.backing, job, output.Options{})
	var f *output.Failure
	if err != nil && (!errors.As(err, &f) || f.Status != store.OutputRejected) {
		t.Errorf("%v", err)
	}
}

func TestCanceled(t *testing.T) {
	w := newWorld(t)
	job := w.job(t, basic(inputAddressed, "out"), elsewhere)
	w.build(t, job, file{"out", "", "{out}"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := output.Register(ctx, w.backing, job, output.Options{})
	if !errors.Is(err, context.Canceled) || w.isValid(t, job.Outputs["out"].Path) {
		t.Errorf("%v", err)
	}
}
