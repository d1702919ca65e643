package compress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

func gone(t *testing.T, c *child) {
	t.Helper()
	if c.cmd.ProcessState == nil {
		t.Error("nobody waited for the program")
	} else if err := c.cmd.Process.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the program: %v", err)
	}
}

func TestCancelKillsProgram(t *testing.T) {
	requireXZ(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	w, err := NewWriter(ctx, XZ, io.Discard, Options{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	c := w.(*writer).codec.(*xzWriter).child
	cancel(errors.New("never mind"))
	if err := w.Close(); err == nil {
		t.Error("closed without an error")
	}
	gone(t, c)
}

// fakeXZ is a program that fails in its own way.
func fakeXZ(t *testing.T, script string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "xz")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	found, from := xzProgram, xzProgramFrom
	t.Cleanup(func() { xzProgram, xzProgramFrom = found, from })
	xzProgram = func() xzUtils { return xzUtils{file, true} }
	xzProgramFrom = 1
}

func TestProgramFails(t *testing.T) {
	fakeXZ(t, "echo 'xz: out of order' >&2; exit 3")
	w, err := NewWriter(t.Context(), XZ, io.Discard, Options{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, werr := w.Write(text(3 << 20))
	cerr := w.Close()
	for _, err := range []error{werr, cerr} {
		if err == nil || !strings.Contains(err.Error(), "out of order") || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("write: %v, %v", werr, cerr)
		}
	}
}

// A program that talks without end does not fill the memory.
func TestProgramTalks(t *testing.T) {
	fakeXZ(t, "head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 1")
	w, err := NewWriter(t.Context(), XZ, io.Discard, Options{Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil || len(err.Error()) > 2*maxStderr {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

// Options of the environment are not ours.
func TestProgramIgnoresEnvironment(t *testing.T) {
	requireXZ(t)
	t.Setenv("XZ_OPT", "--format=lzma --nonsense")
	t.Setenv("XZ_DEFAULTS", "--verbose")
	data := text(1 << 20)
	got, err := unpacked(t.Context(), XZ, bytes.NewReader(packed(t, XZ, data, Options{Level: 1})))
	if err != nil || !bytes.Equal(got, data) {
		t.Error(err)
	}
}

// The stock tools read what is written here, and the other way round.
func TestStockTools(t *testing.T) {
	testenv.LongWithRace(t)
	data := text(1 << 20)
	for m, name := range map[Method]string{XZ: "xz", Zstd: "zstd", Gzip: "gzip", Bzip2: "bzip2"} {
		t.Run(name, func(t *testing.T) {
			tool := testenv.Tool(t, name)
			run := func(in []byte, args ...string) []byte {
				cmd := exec.Command(tool, args...)
				cmd.Stdin = bytes.NewReader(in)
				out, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			got, err := unpacked(t.Context(), m, bytes.NewReader(run(data, "-c")))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("theirs: %v", err)
			}
			if m != XZ {
				if !bytes.Equal(run(packed(t, m, data, Options{Level: DefaultLevel}), "-dc"), data) {
					t.Error("ours")
				}
				return
			}
			eachXZ(t, func(t *testing.T) {
				for _, parallel := range []bool{false, true} {
					if !bytes.Equal(run(packed(t, m, data, Options{Level: 2, Parallel: parallel}), "-dc"), data) {
						t.Error("ours")
					}
				}
			})
		})
	}
}
