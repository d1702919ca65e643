package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// errOutputClosed says that nobody reads standard output any more, which is no
// reason to complain.
var errOutputClosed = errors.New("standard output is closed")

// output is standard output, buffered. Whatever a command printed is flushed
// when the command ends, also after an error.
type output struct {
	w  *bufio.Writer
	to io.Writer // what is below, to look at
	// before, if set, is called before something really goes out.
	before func()
}

func newOutput(w io.Writer) *output {
	o := &output{to: w}
	o.w = bufio.NewWriterSize(pipeWriter{w, o}, 64<<10)
	return o
}

// Write makes it an io.Writer, for what is not lines.
func (o *output) Write(p []byte) (int, error) { return o.w.Write(p) }

func (o *output) println(line string) error {
	_, err := o.w.WriteString(line + "\n")
	return err
}

func (o *output) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(o.w, format, args...)
	return err
}

// printJSON prints one value in one line.
func (o *output) printJSON(v any) error {
	e := json.NewEncoder(o.w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (o *output) flush() error { return o.w.Flush() }

// pipeWriter tells a closed pipe from other errors.
type pipeWriter struct {
	w io.Writer
	o *output
}

func (p pipeWriter) Write(b []byte) (int, error) {
	if p.o.before != nil {
		p.o.before()
	}
	n, err := p.w.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = errOutputClosed
	}
	return n, err
}
