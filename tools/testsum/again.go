package main

import (
	"context"
	"io"
	"regexp"
	"slices"
	"strings"
)

// rerun runs the tests that failed once more, each alone, if they are no more than most. What
// passes then counts as passed, and report names it with what it said when it failed: it is a
// bug of the test or of what it tests, that shows at times. There is no second time for a data race, a
// panic, a time limit or a package that failed as a whole.
func (s *summary) rerun(ctx context.Context, most int, args []string, out io.Writer) error {
	failed := s.failedTop()
	if len(s.broken) > 0 || len(failed) == 0 || len(failed) > most {
		return nil
	}
	flags := args[:max(0, slices.IndexFunc(args, isPackage))]
	for _, n := range failed {
		if s.certain[n] {
			continue
		}
		io.WriteString(out, "\nonce more, alone: "+n.pkg+" "+n.test+"\n")
		second, err := run(ctx, append(slices.Clone(flags), "-run", "^"+regexp.QuoteMeta(n.test)+"$", n.pkg), out)
		if err != nil {
			return err
		}
		if passed, failures, _ := second.counts(); second.exit != 0 || failures > 0 || passed == 0 {
			continue
		}
		s.excuse(n)
	}
	if len(s.failedTop()) == 0 {
		s.exit = 0
	}
	return nil
}

func isPackage(arg string) bool { return strings.HasPrefix(arg, "./") }

// failedTop are the failed tests that no other test ran.
func (s *summary) failedTop() (failed []name) {
	for n, result := range s.results {
		if _, sub := n.parent(); !sub && result == "fail" {
			failed = append(failed, n)
		}
	}
	slices.SortFunc(failed, compareNames)
	return failed
}

// excuse counts a test, with what it ran, as passed.
func (s *summary) excuse(top name) {
	for n, result := range s.results {
		if result == "fail" && n.top() == top {
			s.results[n] = "pass"
			s.excused[n] = true
		}
	}
}

// top is the test that ran it, through whatever others.
func (n name) top() name {
	test, _, _ := strings.Cut(n.test, "/")
	return name{n.pkg, test}
}
