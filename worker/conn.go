package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// conn is a client's connection. It belongs to one goroutine at a time, but for
// uploads.
type conn struct {
	nc     net.Conn
	below  *bufio.Reader // what in reads from, for archives
	in     *decoder
	out    *encoder
	server string // version text
	// features are those that both sides know.
	features []string
	trust    store.Trust
	legacy   LegacyVersion // of a LegacyClient
	born     time.Time
	broken   bool // not at the start of a conversation
	used     bool // has served a request
}

// bad tells that the connection cannot be used again.
func (k *conn) bad() bool { return k.broken || k.in.Err() != nil || k.out.Err() != nil }

// connect makes a connection that is ready for requests.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	k, err := newConn(ctx, c.dial, c.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to '%s': %w", c.o.URI, err)
	}
	err = k.during(ctx, func() error {
		if err := k.greet(ctx, c.o.latest); err != nil {
			return err
		}
		if c.o.Options == nil {
			return nil
		}
		return k.ask(ctx, opSetOptions, func(e *encoder) { e.options(c.o.Options) }, nil)
	})
	if err != nil {
		k.close()
		return nil, fmt.Errorf("cannot open connection to remote store '%s': %w", c.o.URI, err)
	}
	return k, nil
}

// newConn makes a connection on which nothing has been said.
func newConn(ctx context.Context, dial Dialer, dir storepath.Dir) (*conn, error) {
	nc, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	// A wire.Reader takes a buffer that is large enough as its own.
	below := bufio.NewReaderSize(nc, narBuffer)
	return &conn{
		nc:    nc,
		below: below,
		in:    &decoder{Reader: wire.NewReader(below), dir: dir},
		out:   &encoder{Writer: wire.NewWriter(nc), dir: dir},
		born:  time.Now(),
	}, nil
}

func (k *conn) close() { _ = k.nc.Close() } // nobody is left to tell

// during runs f and ends it, with the connection, when ctx ends.
func (k *conn) during(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = k.nc.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() {
		k.broken = true // it has run, or is about to
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return k.explain(err)
}

// explain finds out whether an error means that the daemon has hung up.
func (k *conn) explain(err error) error {
	var fault *Fault
	var own *sourceError
	switch {
	case err == nil || !k.bad() || errors.As(err, &fault):
		return err
	case errors.As(err, &own):
		return own.error
	case errors.Is(err, io.EOF):
		return ErrDisconnected
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	return err
}

// greet is the client's half of the handshake.
func (k *conn) greet(ctx context.Context, latest Version) error {
	k.out.Uint64(clientMagic)
	k.out.Uint64(uint64(latest))
	if err := k.out.Flush(); err != nil {
		return err
	}
	if magic := k.in.Uint64(); k.in.Err() == nil && magic != serverMagic {
		return fmt.Errorf("%w: the server began with %#x", ErrProtocol, magic)
	}
	theirs := k.in.Uint64()
	if err := k.in.Err(); err != nil {
		return err
	}
	if theirs>>8 != uint64(latest>>8) {
		return fmt.Errorf("%w: Nix daemon protocol version %d.%d not supported", ErrProtocol, theirs>>8, theirs&0xff)
	}
	v := min(Version(theirs), latest)
	if v < MinimumUsed {
		return fmt.Errorf("%w: the daemon speaks %s, at least %s is needed", ErrTooOld, v, MinimumUsed)
	}
	k.in.version, k.out.version = v, v
	if v >= v1+38 {
		k.out.Strings(features)
		if err := k.out.Flush(); err != nil {
			return err
		}
		k.features = k.in.features()
	}
	k.out.Uint64(0) // which CPU to run on; obsolete
	k.out.Uint64(0) // whether to reserve space; obsolete
	if err := k.out.Flush(); err != nil {
		return err
	}
	if v >= v1+33 {
		k.server = k.in.TextMax(maxPath)
	}
	if v >= v1+35 {
		k.trust = store.Trust(k.in.Int(uint64(store.NotTrusted)))
	}
	return k.hear(ctx, nil)
}

// ask sends a request and reads the answer.
func (k *conn) ask(ctx context.Context, number uint64, send func(*encoder), answer func(*decoder)) error {
	k.out.Uint64(number)
	if send != nil {
		send(k.out)
	}
	if err := k.out.Flush(); err != nil {
		return k.lastWords(ctx, err)
	}
	if err := k.hear(ctx, nil); err != nil {
		return err
	}
	if answer != nil {
		answer(k.in)
	}
	return k.in.end()
}

// window is how many requests may be under way on one connection. They fit into
// the buffers of a socket, so that both sides can always go on.
const window = 128

// askMany is ask for n requests of the same kind. See Client.askMany.
func (k *conn) askMany(ctx context.Context, number uint64, n int, send func(*encoder, int), answer func(*decoder, int)) error {
	var first error
	sent := 0
	for got := 0; got < sent || first == nil && got < n; got++ {
		if first == nil && sent-got <= window/2 {
			for ; sent < n && sent-got < window; sent++ {
				k.out.Uint64(number)
				send(k.out, sent)
			}
			if err := k.out.Flush(); err != nil {
				return k.lastWords(ctx, err)
			}
		}
		err := k.hear(ctx, nil)
		if err == nil {
			answer(k.in, got)
			err = k.in.end()
		}
		if first == nil {
			first = err
		}
		if k.in.Err() != nil {
			break
		}
	}
	return first
}

// lastWords is for a request that could not be sent: the daemon may have told
// why before it hung up.
func (k *conn) lastWords(ctx context.Context, err error) error {
	_ = k.nc.SetReadDeadline(time.Now().Add(cutGrace)) // without it, the read ends when the connection does
	var fault *Fault
	if heard := k.hear(ctx, nil); errors.As(heard, &fault) {
		return heard
	}
	return err
}

// hear takes the messages of the operation under way, until its answer comes.
// feed has what the daemon may ask for, if anything.
func (k *conn) hear(ctx context.Context, feed io.Reader) error {
	var r relay
	defer r.end()
	for {
		switch msg := k.in.Uint64(); {
		case k.in.Err() != nil:
			return k.in.Err()
		case msg == msgLast:
			return nil
		case msg == msgError:
			f := k.in.fault()
			if err := k.in.Err(); err != nil {
				return err
			}
			return f
		case msg == msgNext:
			// The daemon has left out what is below the verbosity that it was told.
			activity.Logf(ctx, activity.Error, "%s", strings.TrimRight(k.in.Text(), "\n"))
		case msg == msgStartActivity:
			r.start(ctx, k.in)
		case msg == msgStopActivity:
			r.stop(k.in.Uint64())
		case msg == msgResult:
			r.result(k.in)
		case msg == msgRead && feed != nil:
			if err := k.feed(feed); err != nil {
				return err
			}
		default:
			k.in.Fail(fmt.Errorf("%w: got unknown message type %#x from Nix daemon", wire.ErrFormat, msg))
		}
	}
}

// feed gives the daemon the next bytes that it asked for.
func (k *conn) feed(src io.Reader) error {
	b := make([]byte, min(k.in.Uint64(), narBuffer))
	if err := k.in.Err(); err != nil {
		return err
	}
	n, err := io.ReadAtLeast(src, b, min(1, len(b)))
	if err != nil && n == 0 {
		k.broken = true // the daemon waits for what does not come
		return &sourceError{err}
	}
	k.out.Bytes(b[:n])
	return k.out.Flush()
}

// relay passes the daemon's activities on to the sink of a context.
type relay struct{ running map[uint64]relayed }

type relayed struct {
	ctx context.Context
	act *activity.Activity
}

func (r *relay) start(ctx context.Context, d *decoder) {
	id, level, kind, text := d.Uint64(), d.Uint64(), d.Uint64(), d.Text()
	fields := d.fields()
	parent := d.Uint64()
	if d.Err() != nil {
		return
	}
	if p, ok := r.running[parent]; ok {
		ctx = p.ctx
	}
	ctx, act := activity.Start(ctx, activity.Level(level), activity.Type(kind), text, fields...)
	if r.running == nil {
		r.running = map[uint64]relayed{}
	}
	r.stop(id)
	r.running[id] = relayed{ctx, act}
}

func (r *relay) stop(id uint64) {
	if a, ok := r.running[id]; ok {
		a.act.Stop()
		delete(r.running, id)
	}
}

func (r *relay) result(d *decoder) {
	id, what, fields := d.Uint64(), d.Uint64(), d.fields()
	if a, ok := r.running[id]; ok && d.Err() == nil {
		a.act.Result(activity.ResultType(what), fields...)
	}
}

// end stops what the daemon forgot to.
func (r *relay) end() {
	for _, a := range r.running {
		a.act.Stop()
	}
}

func (d *decoder) fields() []activity.Field {
	var fields []activity.Field
	for range d.Int(maxFields) {
		switch d.Int(1) {
		case 0:
			fields = append(fields, activity.Int(d.Uint64()))
		case 1:
			fields = append(fields, activity.Text(d.Text()))
		}
		if d.Err() != nil {
			return nil
		}
	}
	return fields
}
