package main

import (
	"bufio"
	"context"
	"io"
)

// inputBuffer is how much of standard input is read at once.
const inputBuffer = 256 << 10

// input is standard input, of which a read ends when ctx does: reads from pipes
// and terminals cannot be interrupted otherwise.
func (g *globals) input(ctx context.Context) *bufio.Reader {
	pr, pw := io.Pipe()
	go func() {
		// Not a copy by which either side would do without the buffer.
		_, err := io.CopyBuffer(struct{ io.Writer }{pw}, struct{ io.Reader }{g.stdin}, make([]byte, inputBuffer))
		pw.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	return bufio.NewReaderSize(pr, inputBuffer)
}
