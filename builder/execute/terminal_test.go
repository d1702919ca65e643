package execute

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestTerminal(t *testing.T) {
	term, err := openTerminal(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer term.close()
	const text = "a\nb\r\n\x04\x03\xff"
	if _, err := term.slave.WriteString(text); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := term.master.Read(buf); err != nil || string(buf[:n]) != text {
		t.Errorf("%q, %v", buf[:n], err)
	}
	// Somebody holds the other end, and we will not wait for him.
	if err := term.master.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := term.master.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	var rest bytes.Buffer
	take := func(p []byte) { rest.Write(p) }
	term.rest(take)
	if rest.Len() > 0 {
		t.Errorf("%q", rest.String())
	}
	more := strings.Repeat("more\n", 500)
	if _, err := term.slave.WriteString(more); err != nil {
		t.Fatal(err)
	}
	term.rest(take)
	if rest.String() != more {
		t.Errorf("%d bytes", rest.Len())
	}
	term.closeSlave()
	term.rest(take)
	if n, err := term.master.Read(buf); n > 0 || err == nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
