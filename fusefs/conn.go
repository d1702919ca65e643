package fusefs

import (
	"os"
)

// Conn is a connection to the kernel: the mount's end that somebody serves.
type Conn struct {
	dev *os.File
}

// NewConn makes a connection of an open file that another process mounted with and
// handed over. It belongs to the Conn from now on.
func NewConn(dev *os.File) *Conn { return &Conn{dev: dev} }

// File is the open file, to be handed to another process.
func (c *Conn) File() *os.File { return c.dev }

// Close lets go of the connection. If nobody else has it open, everything in the
// mount fails from now on.
func (c *Conn) Close() error { return c.dev.Close() }
