package fusefs

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A request is one question of the kernel. It is used again for the next one.
type request struct {
	s   *server
	in  []byte          // the buffer; what was read is body
	ctx context.Context //nolint:containedctx // of this one request
	fuse.InHeader
	body []byte // what was read, with the header
}

// handle answers the request of n bytes in the buffer.
func (r *request) handle(n int) {
	h := as[fuse.InHeader](r.in[:n])
	if h == nil || int(h.Length) != n {
		r.s.o.Log.Error(fmt.Sprintf("a request of the kernel has %d bytes that cannot be understood", n))
		return
	}
	r.InHeader, r.body = *h, r.in[:n]
	op := opcode(r.Opcode)
	if op.silent() {
		return
	}
	if op == opInterrupt {
		if in := as[fuse.InterruptIn](r.body); in == nil {
			r.fail(unix.EIO)
		} else if no := r.s.interrupt(in.Unique); no != 0 {
			r.fail(no)
		}
		return // an interrupt that went well is not answered
	}
	if r.s.o.TakeOver.Failing && r.Unique&resent != 0 {
		r.s.o.Log.Error(fmt.Sprintf("a request of the kernel (opcode %d) is given up: several processes have failed that had it", op))
		r.fail(unix.EIO)
		return
	}
	r.ctx = r.s.begin(&r.InHeader)
	defer r.s.end(r.Unique)
	defer func() {
		if p := recover(); p != nil {
			r.s.o.Log.Error(fmt.Sprintf("answering a request of the kernel (opcode %d): panic: %v", op, p))
			r.fail(unix.EIO)
		}
	}()
	if err := r.dispatch(op); err != nil {
		r.fail(errno(err))
	}
}

func (r *request) dispatch(op opcode) error {
	switch op {
	case opLookup:
		return r.lookup()
	case opGetattr:
		return r.getattr()
	case opReadlink:
		return r.readlink()
	case opRead:
		return r.read()
	case opReaddir:
		return r.readdir(false)
	case opReaddirplus:
		return r.readdir(true)
	case opStatfs:
		return reply(r, &fuse.StatfsOut{NameLen: maxName, Bsize: blockSize, Frsize: blockSize})
	case opInit:
		in := as[fuse.InitIn](padded(r.in, len(r.body)))
		out, no := r.s.init(in)
		if no != 0 {
			return no
		}
		return reply(r, out)
	case opRelease, opReleasedir, opDestroy:
		return r.send(r.buffer(0))
	}
	// All else the kernel does by itself when told that we cannot: to open and to close,
	// to look for holes, attributes that nothing here has.
	return unix.ENOSYS
}

// padded is the first n bytes of buf with zeros up to the size of an InitIn, of which
// older kernels send less.
func padded(buf []byte, n int) []byte {
	size := len(bytesOf(new(fuse.InitIn)))
	if n < size {
		clear(buf[n:size])
	}
	return buf[:size]
}

// name is what follows the header, up to a zero.
func (r *request) name() string {
	b := r.body[headerIn:]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// object finds what a node's number means.
func (r *request) object() (Object, uint32, error) {
	number, node := SplitNodeID(r.NodeId)
	o, err := r.s.src.Object(r.ctx, number)
	if err != nil {
		return nil, 0, err
	}
	if !o.Tree().Has(node) {
		return nil, 0, ErrStale
	}
	return o, node, nil
}

// buffers are for answers of more than a few bytes.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// answer is a message to the kernel: a header, and room behind it.
type answer struct {
	data *[]byte
}

// buffer makes an answer with room for size bytes.
func (r *request) buffer(size int) answer {
	b := buffers.Get().(*[]byte)
	if cap(*b) < headerOut+size {
		*b = make([]byte, headerOut+size)
	}
	*b = (*b)[:headerOut+size]
	return answer{b}
}

// room is what follows the header.
func (a answer) room() []byte { return (*a.data)[headerOut:] }

// send sends an answer of which n bytes of room are used, and gives it back.
func (r *request) send(a answer) error { return r.sendPart(a, len(a.room())) }

func (r *request) sendPart(a answer, n int) error {
	message := (*a.data)[:headerOut+n]
	*as[fuse.OutHeader](message) = fuse.OutHeader{Length: uint32(len(message)), Unique: r.Unique}
	r.write(message)
	buffers.Put(a.data)
	return nil
}

// reply sends one value of the protocol.
func reply[T any](r *request, v *T) error {
	b := bytesOf(v)
	a := r.buffer(len(b))
	copy(a.room(), b)
	return r.send(a)
}

// fail answers with an errno.
func (r *request) fail(no unix.Errno) {
	if r.s.ctx.Err() != nil {
		return // it is the server that was stopped; a successor answers
	}
	h := fuse.OutHeader{Length: uint32(headerOut), Status: -int32(no), Unique: r.Unique}
	r.write(bytesOf(&h))
}

func (r *request) write(message []byte) {
	err := r.s.conn.write(message)
	if err != nil && err != unix.ENOENT && err != unix.ENODEV { // nobody waits any more
		r.s.o.Log.Error(fmt.Sprintf("answering a request of the kernel (opcode %d): %v", r.Opcode, err))
	}
}
