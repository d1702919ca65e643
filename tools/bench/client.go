package main

import (
	"context"
	"fmt"
	"net"

	"github.com/strata-nix/strata/wire"
)

// What the load client knows of the worker protocol: as little as it needs, and
// apart from package worker, so that it measures any daemon alike.
const (
	clientMagic = 0x6e697863
	serverMagic = 0x6478696f
	minorOffer  = 38

	msgNext          = 0x6f6c6d67
	msgLast          = 0x616c7473
	msgError         = 0x63787470
	msgStartActivity = 0x53545254
	msgStopActivity  = 0x53544f50
	msgResult        = 0x52534c54

	opIsValidPath       = 1
	opQueryReferrers    = 6
	opSetOptions        = 19
	opQueryAllValid     = 23
	opQueryPathInfo     = 26
	opQueryPathFromHash = 29
	opQueryValidPaths   = 31
	opQueryMissing      = 40
)

// client is one connection to a daemon.
type client struct {
	conn  net.Conn
	in    *wire.Reader
	out   *wire.Writer
	minor uint64
}

// dial connects, shakes hands, and sends the options as clients do.
func dial(ctx context.Context, socket string) (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, in: wire.NewReader(conn), out: wire.NewWriter(conn)}
	if err := c.greet(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) greet() error {
	c.out.Uint64(clientMagic)
	c.out.Uint64(1<<8 | minorOffer)
	c.out.Flush() // errors are kept
	if m := c.in.Uint64(); c.in.Err() == nil && m != serverMagic {
		return fmt.Errorf("the daemon begins with %#x", m)
	}
	c.minor = min(c.in.Uint64()&0xff, minorOffer)
	if c.minor >= 38 {
		c.out.Uint64(0) // features
		c.out.Flush()
		c.in.Strings()
	}
	c.out.Uint64(0) // CPU affinity
	c.out.Uint64(0) // reserve space
	c.out.Flush()
	if c.minor >= 33 {
		c.in.Text() // its version
	}
	if c.minor >= 35 {
		c.in.Uint64() // whether it trusts us
	}
	c.await()
	c.request(opSetOptions, func() {
		for _, v := range []uint64{0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0} {
			c.out.Uint64(v)
		}
		c.out.Uint64(0) // no more settings
	})
	return c.err()
}

func (c *client) err() error {
	if err := c.out.Err(); err != nil {
		return err
	}
	return c.in.Err()
}

// request sends an operation and waits until its answer can be read.
func (c *client) request(op uint64, args func()) {
	c.out.Uint64(op)
	if args != nil {
		args()
	}
	c.out.Flush() // errors are kept
	c.await()
}

// await reads log messages up to the answer.
func (c *client) await() {
	for c.err() == nil {
		switch m := c.in.Uint64(); m {
		case msgLast:
			return
		case msgNext:
			c.in.Text()
		case msgStartActivity:
			c.skip(3)
			c.in.Text()
			c.fields()
			c.skip(1)
		case msgStopActivity:
			c.skip(1)
		case msgResult:
			c.skip(2)
			c.fields()
		case msgError:
			c.in.Fail(c.failure())
		default:
			c.in.Fail(fmt.Errorf("the daemon sends message %#x", m))
		}
	}
}

func (c *client) skip(n int) {
	for range n {
		c.in.Uint64()
	}
}

func (c *client) fields() {
	for range c.in.Count() {
		if c.in.Uint64() == 0 {
			c.in.Uint64()
		} else {
			c.in.Text()
		}
	}
}

func (c *client) failure() error {
	if c.minor < 26 {
		return fmt.Errorf("the daemon says: %s", c.in.Text())
	}
	c.in.Text() // type
	c.in.Uint64()
	c.in.Text() // name
	text := c.in.Text()
	c.in.Uint64()
	for range c.in.Count() {
		c.in.Uint64()
		c.in.Text()
	}
	return fmt.Errorf("the daemon says: %s", text)
}

func (c *client) isValid(path string) bool {
	c.request(opIsValidPath, func() { c.out.Text(path) })
	return c.in.Bool()
}

// pathInfo gives the references, and false if the path is not valid.
func (c *client) pathInfo(path string) ([]string, bool) {
	c.request(opQueryPathInfo, func() { c.out.Text(path) })
	if !c.in.Bool() {
		return nil, false
	}
	c.in.Text() // deriver
	c.in.Text() // NAR hash
	refs := c.in.Strings()
	c.skip(3) // registration time, NAR size, ultimate
	c.in.Strings()
	c.in.Text() // content address
	return refs, true
}

// validPaths tells how many of paths are valid.
func (c *client) validPaths(paths []string) int {
	c.request(opQueryValidPaths, func() {
		c.out.Strings(paths)
		c.out.Uint64(0) // no substitutes
	})
	return c.count()
}

// count skips a list and gives its length.
func (c *client) count() int {
	n := c.in.Count()
	for range n {
		c.in.Text()
	}
	return n
}

func (c *client) referrers(path string) int {
	c.request(opQueryReferrers, func() { c.out.Text(path) })
	return c.count()
}

func (c *client) fromHashPart(hash string) bool {
	c.request(opQueryPathFromHash, func() { c.out.Text(hash) })
	return c.in.Text() != ""
}

func (c *client) allPaths() int {
	c.request(opQueryAllValid, nil)
	return c.count()
}

// missing tells how many of paths would be built, fetched, or are unknown.
func (c *client) missing(paths []string) int {
	c.request(opQueryMissing, func() { c.out.Strings(paths) })
	n := c.count() + c.count() + c.count()
	c.skip(2) // sizes
	return n
}
