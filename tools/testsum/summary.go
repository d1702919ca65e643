package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// event is a line of `go test -json`. Source: `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // of build-output
}

// name identifies a test.
type name struct{ pkg, test string }

func compareNames(a, b name) int {
	return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.test, b.test))
}

// parent is the test that ran it as a subtest; ok is false at the top.
func (n name) parent() (p name, ok bool) {
	i := strings.LastIndexByte(n.test, '/')
	if i < 0 {
		return name{}, false
	}
	return name{n.pkg, n.test[:i]}, true
}

// summary is what the events have said so far.
type summary struct {
	out  io.Writer
	exit int // status of go test

	output  map[name][]string // of tests that have not ended well yet
	results map[name]string   // pass, fail or skip, by test
	broken  []string          // packages that failed without a failed test
	reasons map[string][]name // of skips
	excerpt map[name][]string // what failed tests said, shortened
	certain map[name]bool     // failed tests, at the top, for which once is enough
	excused map[name]bool     // failed tests that passed when they were run once more
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, output: map[name][]string{}, results: map[name]string{}, reasons: map[string][]name{}, excerpt: map[name][]string{},
		certain: map[name]bool{}, excused: map[name]bool{}}
}

// read takes events until there are no more. A line that is not an event, as
// the go command itself prints when it fails early, is shown as it is.
func (s *summary) read(r *bufio.Reader) error {
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				s.out.Write(line)
			} else {
				s.take(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *summary) take(e event) {
	n := name{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		io.WriteString(s.out, e.Output)
	case "output":
		if e.Test == "" {
			s.packageOutput(n, e.Output)
		} else {
			s.output[n] = append(s.output[n], e.Output)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(n, e.Action)
		} else {
			s.endTest(n, e.Action)
		}
	}
}

// packageOutput shows the line about a package, and keeps what a test binary
// prints besides its tests until it is known whether that matters.
func (s *summary) packageOutput(n name, text string) {
	switch {
	case strings.HasPrefix(text, "ok  \t"), strings.HasPrefix(text, "FAIL\t"):
		io.WriteString(s.out, text)
	case strings.HasPrefix(text, "?   \t"), text == "PASS\n", text == "FAIL\n":
	default:
		s.output[n] = append(s.output[n], text)
	}
}

func (s *summary) endTest(n name, action string) {
	s.results[n] = action
	switch action {
	case "skip":
		why := reason(s.output[n])
		s.reasons[why] = append(s.reasons[why], n)
	case "fail":
		s.show(n)
		if lines := messages(s.output[n]); len(lines) > 0 { // else a subtest has them
			s.excerpt[n] = lines
		}
		if slices.ContainsFunc(s.output[n], isCertain) {
			s.certain[n.top()] = true
		}
	}
	delete(s.output, n)
}

// endPackage looks for a failure that no test has: a panic, a time limit, code
// that does not compile.
func (s *summary) endPackage(n name, action string) {
	if action == "fail" {
		failed := false
		for t, result := range s.results {
			failed = failed || t.pkg == n.pkg && result == "fail"
		}
		if !failed {
			s.broken = append(s.broken, n.pkg)
		}
		for t := range s.output { // tests that did not come to their end
			if t.pkg == n.pkg {
				s.show(t)
			}
		}
	}
	maps.DeleteFunc(s.output, func(t name, _ []string) bool { return t.pkg == n.pkg })
}

// isCertain finds what is a bug whatever a second run says.
func isCertain(text string) bool {
	return strings.Contains(text, "WARNING: DATA RACE") || strings.Contains(text, "race detected during execution of test") || strings.HasPrefix(text, "panic: ")
}

func (s *summary) show(n name) {
	for _, text := range s.output[n] {
		if !strings.HasPrefix(text, "=== ") {
			io.WriteString(s.out, text)
		}
	}
}

// position is what testing writes before a message.
var position = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// messages are the first few lines of what a failed test said, without what processes
// printed that it started: there may be much of that, and it is shown above.
func messages(output []string) (lines []string) {
	const most, width = 12, 300
	wanted := false
	for _, text := range output {
		if strings.HasPrefix(text, "panic: ") {
			wanted = true
		} else if position.MatchString(text) {
			wanted = !strings.Contains(text, ": output of [")
		} else if strings.HasPrefix(text, "=== ") || strings.HasPrefix(strings.TrimSpace(text), "--- ") {
			continue
		}
		if !wanted {
			continue
		}
		if len(lines) == most {
			return append(lines, "    ...")
		}
		text = strings.TrimRight(text, "\n")
		lines = append(lines, text[:min(len(text), width)])
	}
	return lines
}

// reason finds the message of a skipped test in its output.
func reason(output []string) string {
	var lines []string
	for _, text := range output {
		if strings.HasPrefix(text, "=== ") || strings.HasPrefix(strings.TrimSpace(text), "--- SKIP") {
			continue
		}
		if text = strings.TrimSpace(position.ReplaceAllString(text, "")); text != "" {
			lines = append(lines, text)
		}
	}
	if len(lines) == 0 {
		return "no reason given"
	}
	return strings.Join(lines, "; ")
}

// counts of tests. A test that ran others counts only if it failed although
// none of these did.
func (s *summary) counts() (passed, failed, skipped int) {
	ran := make(map[name]bool)        // has subtests
	failedBelow := make(map[name]int) // how many subtests failed
	for n, result := range s.results {
		for p, ok := n.parent(); ok; p, ok = p.parent() {
			ran[p] = true
			if result == "fail" {
				failedBelow[p]++
			}
		}
	}
	for n, result := range s.results {
		switch {
		case result == "fail" && failedBelow[n] == 0:
			failed++
		case ran[n]:
		case result == "pass":
			passed++
		case result == "skip":
			skipped++
		}
	}
	return passed, failed + len(s.broken), skipped
}

// good tells whether the run is a success.
func (s *summary) good(noSkip bool) bool {
	passed, failed, skipped := s.counts()
	return s.exit == 0 && passed > 0 && failed == 0 && (skipped == 0 || !noSkip)
}

// report writes the closing lines.
func (s *summary) report(w io.Writer) {
	passed, failed, skipped := s.counts()
	if skipped > 0 {
		fmt.Fprintf(w, "\nskipped:\n")
	}
	byCount := func(a, b string) int {
		return cmp.Or(cmp.Compare(len(s.reasons[b]), len(s.reasons[a])), cmp.Compare(a, b))
	}
	for _, why := range slices.SortedFunc(maps.Keys(s.reasons), byCount) {
		fmt.Fprintf(w, "%5d  %s (%s)\n", len(s.reasons[why]), why, someNames(s.reasons[why]))
	}
	for _, n := range slices.SortedFunc(maps.Keys(s.excerpt), compareNames) {
		what := "failed"
		if s.excused[n] {
			what = "failed, and passed when it was run once more alone"
		}
		fmt.Fprintf(w, "%s: %s %s\n", what, n.pkg, n.test)
		for _, line := range s.excerpt[n] {
			fmt.Fprintln(w, line)
		}
	}
	for _, pkg := range slices.Sorted(slices.Values(s.broken)) {
		fmt.Fprintf(w, "failed as a whole: %s\n", pkg)
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped)
}

// someNames lists the first few tests.
func someNames(tests []name) string {
	const most = 3
	var names []string
	for _, t := range tests[:min(len(tests), most)] {
		names = append(names, t.test)
	}
	if len(tests) > most {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}
