package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Between these marks a file is written by this command.
const (
	beginMark = "<!-- begin: written by tools/bench -->"
	endMark   = "<!-- end: written by tools/bench -->"
)

// writeReport writes the table and the curves into a file, between its marks.
func writeReport(file string, kept *results) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte("# Benchmarks\n\n"+beginMark+"\n"+endMark+"\n"), nil
	}
	if err != nil {
		return err
	}
	begin, end := bytes.Index(text, []byte(beginMark)), bytes.Index(text, []byte(endMark))
	if begin < 0 || end < begin {
		return fmt.Errorf("%s has not the marks %s and %s", file, beginMark, endMark)
	}
	var out bytes.Buffer
	out.Write(text[:begin])
	out.WriteString(beginMark + "\n\n")
	writeBody(&out, kept)
	out.Write(text[end:])
	return os.WriteFile(file, out.Bytes(), 0o644)
}

func writeBody(out *bytes.Buffer, kept *results) {
	o := options{Scale: 1}
	machines := kept.machines()
	if len(machines) == 0 {
		return
	}
	for i, m := range machines {
		fmt.Fprintf(out, "%s %s, %d cores, %d GiB, Linux %s; %s; %s; %s.\n", mark(i), m.CPU, m.Cores, m.Memory, m.Kernel, m.Nix, m.Strata, m.Go)
	}
	for _, f := range families {
		var lines []string
		for _, r := range f.rows(o) {
			if !strings.HasPrefix(r.name, "curve/") {
				lines = append(lines, r.line(kept.of(r), machines))
			}
		}
		fmt.Fprintf(out, "\n## %s\n\n", f.name)
		out.WriteString("| row | what | stock | strata | times as good | by pairs | wanted | CPU | memory, stock | strata | p99 µs, stock | strata | pairs | date |\n")
		out.WriteString("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n")
		for _, l := range lines {
			out.WriteString(l)
		}
	}
	writeCurves(out, o, kept)
	out.WriteString("\n")
}

// mark names a machine in the table.
func mark(i int) string { return fmt.Sprintf("[%d]", i+1) }

// when says when and on which machine a row ran.
func (m machine) when(machines []machine) string {
	if m.Date.IsZero() {
		return ""
	}
	date := m.Date.Format("2006-01-02")
	if i := slices.Index(machines, m.same()); i >= 0 {
		date += " " + mark(i)
	}
	return date
}

// same is a machine without what differs from row to row.
func (m machine) same() machine {
	m.Date, m.Load = machine{}.Date, 0
	return m
}

// machines are all that results come from, the latest first.
func (r *results) machines() []machine {
	var all []*result
	for _, res := range r.Rows {
		all = append(all, res)
	}
	slices.SortFunc(all, func(a, b *result) int { return b.Where.Date.Compare(a.Where.Date) })
	var list []machine
	for _, res := range all {
		if m := res.Where.same(); m != (machine{}) && !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}

// line is a row of the table.
func (r row) line(res *result, machines []machine) string {
	date := res.Where.when(machines)
	if res.Why != "" {
		return fmt.Sprintf("| %s | %s | | | %s | | %s | | | | | | | %s |\n", r.name, r.what, cell(res.Why), r.wanted(), date)
	}
	ofMedians, ofPairs := res.ratios(r.unit)
	cells := []string{
		r.name, r.what, r.value(res.Stock), r.value(res.Ours), times(ofMedians), times(ofPairs), r.wanted() + r.verdict(res),
		times(ratio(median(pick(res.Stock, cpuOf)), median(pick(res.Ours, cpuOf)))),
		number(median(pick(res.Stock, memoryOf))), number(median(pick(res.Ours, memoryOf))),
		number(median(pick(res.Stock, p99Of))), number(median(pick(res.Ours, p99Of))),
		fmt.Sprint(len(res.Ours)), date,
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

func (r row) value(samples []sample) string {
	if len(samples) == 0 {
		return ""
	}
	text := number(median(pick(samples, valueOf)))
	if r.unit == perSecond {
		return text + "/s"
	}
	return text + " " + string(r.unit)
}

// wanted is what is to be reached.
func (r row) wanted() string {
	var parts []string
	if r.target > 0 {
		parts = append(parts, fmt.Sprintf("%g×", r.target))
	}
	if r.limit > 0 {
		parts = append(parts, fmt.Sprintf("under %g %s", r.limit, r.unit))
	}
	if r.memory > 0 {
		parts = append(parts, fmt.Sprintf("under %g MiB", r.memory))
	}
	if r.tail {
		parts = append(parts, "p99 no worse")
	}
	return strings.Join(parts, ", ")
}

// verdict marks what is not reached.
func (r row) verdict(res *result) string {
	ofMedians, _ := res.ratios(r.unit)
	short := r.target > 0 && ofMedians < r.target ||
		r.limit > 0 && median(pick(res.Ours, valueOf)) > r.limit ||
		r.memory > 0 && median(pick(res.Ours, memoryOf)) > r.memory ||
		r.tail && median(pick(res.Ours, p99Of)) > median(pick(res.Stock, p99Of))
	if short {
		return ": **short**"
	}
	return ""
}

// cell is text that may be anything, within a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

func p99Of(s sample) float64 { return s.P99 }

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func times(v float64) string {
	if v == 0 {
		return ""
	}
	return number(v) + "×"
}

// number prints three digits that mean something.
func number(v float64) string {
	switch {
	case v == 0:
		return ""
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// writeCurves shows how cost grows.
func writeCurves(out *bytes.Buffer, o options, kept *results) {
	var names []string
	points := map[string][]row{}
	for _, r := range allRows(o) {
		if r.curve == "" {
			continue
		}
		if points[r.curve] == nil {
			names = append(names, r.curve)
		}
		points[r.curve] = append(points[r.curve], r)
	}
	out.WriteString("\n## How cost grows\n")
	for _, name := range names {
		rows := points[name]
		slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.at, b.at) })
		fmt.Fprintf(out, "\n%s\n\n| | stock | strata | times as good | memory, stock | strata | pairs |\n|--:|--:|--:|--:|--:|--:|--:|\n", name)
		for _, r := range rows {
			out.WriteString(r.point(kept.of(r)))
		}
	}
}

// point is a row of a curve's table.
func (r row) point(res *result) string {
	if res.Why != "" {
		return fmt.Sprintf("| %d | | | %s | | | |\n", r.at, cell(res.Why))
	}
	ofMedians, _ := res.ratios(r.unit)
	return fmt.Sprintf("| %d | %s | %s | %s | %s | %s | %d |\n", r.at, r.value(res.Stock), r.value(res.Ours), times(ofMedians),
		number(median(pick(res.Stock, memoryOf))), number(median(pick(res.Ours, memoryOf))), len(res.Ours))
}
