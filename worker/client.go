package worker

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/strata-nix/strata/internal/unixsocket"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// DefaultMaxConnections of a Client.
const DefaultMaxConnections = 4

// ErrDisconnected: the daemon hung up in the middle of a conversation.
var ErrDisconnected = errors.New("the daemon disconnected unexpectedly (maybe it crashed?)")

// Dialer makes a connection to a daemon.
type Dialer func(context.Context) (net.Conn, error)

// DialUnix connects to a socket in the file system, however long its path is.
func DialUnix(path string) Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		return unixsocket.Dial(ctx, path)
	}
}

// ClientOptions say how a Client behaves. The zero value is useful.
type ClientOptions struct {
	// Dir is the store directory of the daemon, /nix/store if empty.
	Dir storepath.Dir
	// URI names the store in messages.
	URI string
	// MaxConnections are used at once, DefaultMaxConnections if 0. More requests
	// wait. Temporary roots and lists of everything take one more each.
	MaxConnections int
	// MaxConnectionAge is when a connection is not used again; 0: never.
	MaxConnectionAge time.Duration
	// Options are sent on each connection. nil: the daemon keeps its own.
	Options *Options

	latest Version // that is offered; for tests
}

// Client is a store behind a daemon. It has all abilities of package store that
// the protocol can express; what an old daemon cannot do is unsupported, and what
// a daemon refuses is an error that wraps a [*Fault].
//
// It has no directory, since the daemon may be on another machine: see
// [Client.Directory].
type Client struct {
	dial Dialer
	o    ClientOptions
	pool *pool

	// What the daemon told about itself when it was first connected to.
	version string
	proto   Version
	trust   store.Trust
}

// NewClient connects to a daemon.
func NewClient(ctx context.Context, dial Dialer, o ClientOptions) (*Client, error) {
	if o.Dir == "" {
		o.Dir = storepath.DefaultDir
	}
	if o.URI == "" {
		o.URI = "daemon"
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.latest == 0 {
		o.latest = Latest
	}
	c := &Client{dial: dial, o: o}
	c.pool = newPool(o.MaxConnections, o.MaxConnectionAge, c.connect)
	k, err := c.pool.get(ctx)
	if err != nil {
		return nil, err
	}
	c.version, c.proto, c.trust = k.server, k.in.version, k.trust
	c.pool.put(k)
	return c, nil
}

// Dir implements store.Store.
func (c *Client) Dir() storepath.Dir { return c.o.Dir }

// URI implements store.Store.
func (c *Client) URI() string { return c.o.URI }

// Close implements store.Store.
func (c *Client) Close() error {
	c.pool.close()
	return nil
}

// ServerVersion is what the daemon calls itself, "" if it is older than that.
func (c *Client) ServerVersion() string { return c.version }

// Protocol is the version that is spoken with the daemon.
func (c *Client) Protocol() Version { return c.proto }

// Trust implements store.Truster.
func (c *Client) Trust(context.Context) (store.Trust, error) { return c.trust, nil }

// DirectoryClient is a Client whose objects can also be read from disk.
type DirectoryClient struct {
	*Client
	real string
}

// Directory gives the same client with the ability store.Directory. Closing
// either closes both.
func (c *Client) Directory(real string) *DirectoryClient { return &DirectoryClient{c, real} }

// RealDir implements store.Directory.
func (c *DirectoryClient) RealDir() string { return c.real }

// with lends a connection to f, which performs the operation. Afterwards the
// connection is used again unless something went wrong on it.
func (c *Client) with(ctx context.Context, number uint64, f func(*conn) error) error {
	_, err := c.attempt(ctx, number, f)
	return err
}

// attempt is with, and tells whether it is worth another try: the daemon had
// hung up before it heard the request. That happens after it was started anew,
// and when it gave up on the connection after the last answer.
func (c *Client) attempt(ctx context.Context, number uint64, f func(*conn) error) (stale bool, err error) {
	o := opByNumber(number)
	if c.proto < o.since {
		return false, c.tooOld(o.name, o.since)
	}
	k, err := c.pool.get(ctx)
	if err != nil {
		return false, err
	}
	defer c.pool.put(k)
	if !o.among(k.features) {
		return false, &store.UnsupportedError{Op: o.name, Store: c.o.URI, Why: "the daemon does not know '" + o.feature + "'"}
	}
	heard := k.in.Offset()
	err = k.during(ctx, func() error { return f(k) })
	stale = k.used && k.bad() && k.in.Offset() == heard && ctx.Err() == nil
	k.used = true
	return stale, err
}

// twice is with for what may be done again: all operations that send no streams.
func (c *Client) twice(ctx context.Context, number uint64, f func(*conn) error) error {
	stale, err := c.attempt(ctx, number, f)
	for err != nil && stale {
		stale, err = c.attempt(ctx, number, f)
	}
	return err
}

func (c *Client) tooOld(what string, since Version) error {
	return &store.UnsupportedError{Op: what, Store: c.o.URI,
		Why: "the daemon speaks protocol " + c.proto.String() + ", this needs " + since.String()}
}

// ask performs an operation: send writes what belongs to the request, answer
// reads the answer. Either may be nil.
func (c *Client) ask(ctx context.Context, number uint64, send func(*encoder), answer func(*decoder)) error {
	return c.twice(ctx, number, func(k *conn) error { return k.ask(ctx, number, send, answer) })
}

// askMany performs an operation n times, without waiting for one answer before
// the next request. The first error is the result.
func (c *Client) askMany(ctx context.Context, number uint64, n int, send func(*encoder, int), answer func(*decoder, int)) error {
	if n == 0 {
		return nil
	}
	return c.twice(ctx, number, func(k *conn) error { return k.askMany(ctx, number, n, send, answer) })
}

// acknowledged reads the answer that says nothing but that it is done.
func acknowledged(d *decoder) { d.Uint64() }
