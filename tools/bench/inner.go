package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// inner runs rows in the world and reports each on standard output.
func inner(ctx context.Context, s spec) error {
	w, err := enterWorld(s)
	if err != nil {
		return err
	}
	here, err := thisMachine(ctx)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	family := ""
	for _, r := range rowsNamed(s.Options, s.Rows) {
		if r.family != family { // what one family uses is in the way of the next
			w.drop(family)
			family = r.family
		}
		res := w.measure(ctx, r)
		if ctx.Err() != nil {
			break
		}
		res.Where = here
		res.Where.Date, res.Where.Load = now(), loadAverage()
		tell(r, &res)
		if err := out.Encode(report{r.name, res}); err != nil {
			return err
		}
	}
	w.drop(family)
	return ctx.Err()
}

func now() time.Time { return time.Now().UTC().Truncate(time.Minute) }

// measure runs a row on both sides in turn.
func (w *world) measure(ctx context.Context, r row) (res result) {
	if why := w.inputs.missing(r); why != "" {
		res.Why = why
		return res
	}
	for range r.howOften(w.o) {
		var a, b sample
		var err error
		if !r.alone {
			if a, err = r.run(ctx, w, stock); err != nil {
				res.Why = firstLine("stock Nix: " + err.Error())
				return res
			}
			res.Stock = append(res.Stock, a)
		}
		if b, err = r.run(ctx, w, ours); err != nil {
			res.Why = firstLine("strata: " + err.Error())
			return res
		}
		res.Ours = append(res.Ours, b)
		if !r.alone && a.answer != b.answer {
			res.Why = fmt.Sprintf("answers differ: stock Nix has %.200q, strata %.200q", a.answer, b.answer)
			return res
		}
	}
	return res
}

// tell shows what came of a row.
func tell(r row, res *result) {
	if res.Why != "" {
		fmt.Fprintf(os.Stderr, "%-26s %s\n", r.name, res.Why)
		return
	}
	value := func(samples []sample) string {
		return fmt.Sprintf("%10.4g %-4s", median(pick(samples, valueOf)), r.unit)
	}
	line := fmt.Sprintf("%-26s %s", r.name, value(res.Ours))
	if !r.alone {
		ofMedians, ofPairs := res.ratios(r.unit)
		line += fmt.Sprintf(" stock %s  %6.2f× (pairs %.2f×)", value(res.Stock), ofMedians, ofPairs)
		if a, b := median(pick(res.Stock, cpuOf)), median(pick(res.Ours, cpuOf)); b > 0 {
			line += fmt.Sprintf("  CPU %.2f×", a/b)
		}
	}
	if r.target > 0 {
		line += fmt.Sprintf("  wanted %g×", r.target)
	}
	fmt.Fprintln(os.Stderr, line)
}

// thisMachine says where this is and what is compared.
func thisMachine(ctx context.Context) (machine, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return machine{}, err
	}
	m := machine{Cores: runtime.NumCPU(), Kernel: unix.ByteSliceToString(u.Release[:]), Go: runtime.Version()}
	m.CPU = field("/proc/cpuinfo", "model name")
	if kib, err := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB")); err == nil {
		m.Memory = (kib + 1<<19) >> 20
	}
	var err error
	if m.Nix, err = version(ctx, "nix"); err != nil {
		return m, err
	}
	m.Strata, err = version(ctx, strataPath)
	return m, err
}

// field is the value of the first "name : value" line of a file in /proc.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func version(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	return firstLine(string(out)), nil
}

// loadAverage is how many processes wanted to run in the last minute.
func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}
