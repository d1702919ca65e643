package testenv

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"
)

func TestStopSendsSIGTERM(t *testing.T) {
	p := Start(t, exec.Command("sleep", "100"))
	err := p.Stop()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v", err)
	}
	if again := p.Stop(); again != err {
		t.Errorf("a second Stop says %v", again)
	}
}

func TestOutputOfAnEndedProcess(t *testing.T) {
	p := Start(t, exec.Command("sh", "-c", "echo out; echo err >&2"))
	<-p.Done()
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if got := p.Output(); got != "out\nerr\n" {
		t.Errorf("output %q", got)
	}
}
