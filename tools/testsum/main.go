// Command testsum runs `go test -json` with the arguments it is given and says
// at the end how many tests passed, failed and were skipped, and why those were
// skipped. Apart from that it prints what `go test` prints: a line for each
// package, and the output of what failed.
//
//	go run ./tools/testsum [go test's flags] ./...
//
// With STRATA_TEST_AGAIN=n, up to n tests that failed are run once more, each alone. One that
// passes then counts as passed, and is named at the end with what it said before.
//
// A test with subtests counts only through these. The last line has the form
//
//	812 passed, 0 failed, 3 skipped
//
// Exit status: 0 all passed, 1 something failed, or nothing was run, or, with
// STRATA_TEST_NO_SKIP set, something was skipped; 2 go test could not be run.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if signal.Ignored(syscall.SIGHUP) { // as by nohup; tests would inherit that, and wait for what it does in vain
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	s, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(2)
	}
	v := os.Getenv("STRATA_TEST_NO_SKIP")
	noSkip := v != "" && v != "0"
	if again, _ := strconv.Atoi(os.Getenv("STRATA_TEST_AGAIN")); again > 0 {
		if err := s.rerun(ctx, again, os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "testsum:", err)
			os.Exit(2)
		}
	}
	s.report(os.Stdout)
	if !s.good(noSkip) {
		os.Exit(1)
	}
}

// run runs go test and collects its events, printing what is worth it to out.
func run(ctx context.Context, args []string, out io.Writer) (*summary, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	events, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := newSummary(out)
	err = s.read(bufio.NewReader(events))
	werr := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(werr, &exit) {
		s.exit = exit.ExitCode() // the events say what failed
		werr = nil
	}
	return s, errors.Join(err, werr)
}
