package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// command is something to run and to measure from outside.
type command struct {
	args  []string
	stdin string            // a file; "": nothing
	env   map[string]string // besides the world's
	dir   string
	// answer turns what it printed into what both sides must agree on. It is
	// asked for on small inputs only: elsewhere nobody reads what is printed.
	answer func(stdout []byte) (string, error)
}

// run runs it. A status other than 0 is an error with the end of what it said.
func (c command) run(ctx context.Context, w *world) (sample, error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	cmd.Env = os.Environ()
	for k, v := range c.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	if c.stdin != "" {
		f, err := os.Open(c.stdin)
		if err != nil {
			return sample{}, err
		}
		defer f.Close()
		cmd.Stdin = f
	}
	// To files, so that this process does nothing meanwhile.
	said, err := os.CreateTemp(w.mem, "stderr-")
	if err != nil {
		return sample{}, err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	cmd.Stderr = said
	var printed *os.File
	if c.answer != nil && w.o.Smoke {
		if printed, err = os.CreateTemp(w.mem, "stdout-"); err != nil {
			return sample{}, err
		}
		defer os.Remove(printed.Name())
		defer printed.Close()
		cmd.Stdout = printed
	}
	begin := time.Now()
	err = cmd.Run()
	took := time.Since(begin)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w: %s", strings.Join(c.args[:min(3, len(c.args))], " "), err, lastLine(said))
	}
	ru := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	s := sample{
		Value:  took.Seconds(),
		CPU:    time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds(),
		Memory: float64(ru.Maxrss) / 1024,
	}
	if printed != nil {
		text, err := os.ReadFile(printed.Name())
		if err == nil {
			s.answer, err = c.answer(text)
		}
		if err != nil {
			return s, fmt.Errorf("what %s printed: %w", c.args[0], err)
		}
	}
	return s, nil
}

// lastLine is the last line of a file that begins like an error, or the last at all.
func lastLine(f *os.File) string {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	slices.Reverse(lines)
	for _, l := range lines {
		if strings.Contains(l, "error") {
			return l
		}
	}
	return lines[0]
}

// do runs something that is not measured.
func do(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args[:min(3, len(args))], " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// choose gives one of two command lines.
func (s side) choose(stockArgs, ourArgs []string) []string {
	if s == stock {
		return stockArgs
	}
	return append([]string{strataPath}, ourArgs...)
}

// digest is for answers too long to compare.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// sortedLines is the digest of a list in any order, with its length.
func sortedLines(b []byte) (string, error) {
	lines := strings.Fields(string(b))
	slices.Sort(lines)
	return fmt.Sprintf("%d lines, %s", len(lines), digest([]byte(strings.Join(lines, "\n")))), nil
}
