package worker

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/wire"
)

const (
	// flushDelay is how long a message may wait for others to be sent with it.
	flushDelay = 20 * time.Millisecond
	// softLimit is how many bytes of messages may wait before progress, which the
	// next one will tell better, is left out; and how many are kept between
	// operations.
	softLimit = 256 << 10
	// hardLimit is how many may wait before whoever tells more has to wait, too.
	hardLimit = 4 << 20
)

// tunnel is the sink of a connection: it sends messages to the client, but only
// between start and stop, as the client understands them nowhere else. What is
// told outside of that waits for the next start.
//
// The rule about who may write to out: the goroutine of the connection outside of
// start and stop, whoever holds writing inside. So the connection holds writing
// from stop to start.
type tunnel struct {
	out     *wire.Writer
	version Version
	ids     uint64 // is added to the numbers of activities
	level   atomic.Uint64

	writing sync.Mutex

	mu    sync.Mutex
	room  sync.Cond // the queue has become shorter, or nobody needs wait for that
	queue []byte    // encoded messages that out has not got
	spare []byte    // a queue that was sent
	open  bool      // between start and stop
	timer *time.Timer
	armed bool // timer will send the queue
}

func newTunnel(out *wire.Writer, version Version) *tunnel {
	// The client may show activities of other processes beside ours.
	t := &tunnel{out: out, version: version, ids: uint64(os.Getpid()) << 32}
	t.room.L = &t.mu
	t.level.Store(uint64(activity.Info))
	t.writing.Lock()
	return t
}

// start lets messages through.
func (t *tunnel) start() {
	t.mu.Lock()
	t.open = true
	if len(t.queue) > 0 || t.out.Buffered() > 0 {
		t.arm()
	}
	t.mu.Unlock()
	t.writing.Unlock()
}

// stop ends that, after the messages that have been told. The caller may write
// to out again, and says what comes: msgLast or msgError.
func (t *tunnel) stop() {
	t.writing.Lock()
	t.mu.Lock()
	t.open = false
	if t.armed {
		t.armed = false
		t.timer.Stop()
	}
	q := t.take()
	t.mu.Unlock()
	if len(q) > 0 {
		_, _ = t.out.Write(q) // kept in out.Err
		t.giveBack(q)
	}
}

// direct lets f write between start and stop, and sends it.
func (t *tunnel) direct(f func(*wire.Writer)) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.drain()
	f(t.out)
	return t.out.Flush()
}

// tick sends what has gathered.
func (t *tunnel) tick() {
	if t.writing.TryLock() {
		t.mu.Lock()
		t.armed = false
		open := t.open
		t.mu.Unlock()
		if open {
			t.drain()
			_ = t.out.Flush() // kept in out.Err
		}
		t.writing.Unlock()
		return
	}
	// Either stop has come, or somebody is sending and may miss the last messages.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed = false
	if t.open {
		t.arm()
	}
}

// drain gives out the queue; the caller holds writing.
func (t *tunnel) drain() {
	t.mu.Lock()
	q := t.take()
	t.mu.Unlock()
	if len(q) > 0 {
		_, _ = t.out.Write(q) // kept in out.Err
		t.giveBack(q)
	}
}

// take, arm: the caller holds mu.
func (t *tunnel) take() []byte {
	q := t.queue
	t.queue, t.spare = t.spare, nil
	t.room.Broadcast()
	return q
}

func (t *tunnel) arm() {
	if t.armed {
		return
	}
	t.armed = true
	if t.timer == nil {
		t.timer = time.AfterFunc(flushDelay, t.tick)
	} else {
		t.timer.Reset(flushDelay)
	}
}

func (t *tunnel) giveBack(q []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cap(q) <= softLimit {
		t.spare = q[:0]
	}
}

// send queues one message. What is progress may be left out.
func (t *tunnel) send(progress bool, encode func([]byte) []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) > softLimit && (progress || !t.open) {
		return
	}
	for t.open && len(t.queue) > hardLimit {
		t.room.Wait()
	}
	t.queue = encode(t.queue)
	if t.open {
		t.arm()
	}
}

// Log implements activity.Sink.
func (t *tunnel) Log(level activity.Level, text string) {
	if uint64(level) > t.level.Load() {
		return
	}
	t.send(false, func(b []byte) []byte {
		return appendText(appendInts(b, msgNext), text+"\n")
	})
}

// sent is the number of an activity as the client knows it; 0 is none.
func (t *tunnel) sent(id uint64) uint64 {
	if id == 0 {
		return 0
	}
	return t.ids + id
}

// Start implements activity.Sink.
func (t *tunnel) Start(e activity.Event) {
	if t.version < v1+20 {
		if e.Text != "" {
			t.Log(e.Level, e.Text+"...")
		}
		return
	}
	t.send(false, func(b []byte) []byte {
		b = appendInts(b, msgStartActivity, t.sent(e.ID), uint64(e.Level), uint64(e.Type))
		b = appendText(b, e.Text)
		b = appendFields(b, e.Fields)
		return appendInts(b, t.sent(e.Parent))
	})
}

// Stop implements activity.Sink.
func (t *tunnel) Stop(id uint64) {
	if t.version < v1+20 {
		return
	}
	t.send(false, func(b []byte) []byte { return appendInts(b, msgStopActivity, t.sent(id)) })
}

// Result implements activity.Sink.
func (t *tunnel) Result(id uint64, what activity.ResultType, fields []activity.Field) {
	if t.version < v1+20 {
		return
	}
	progress := what == activity.Progress || what == activity.SetExpected
	t.send(progress, func(b []byte) []byte {
		return appendFields(appendInts(b, msgResult, t.sent(id), uint64(what)), fields)
	})
}

func appendInts(b []byte, ints ...uint64) []byte {
	for _, n := range ints {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = append(appendInts(b, uint64(len(s))), s...)
	var zero [8]byte
	return append(b, zero[:-len(s)&7]...)
}

func appendFields(b []byte, fields []activity.Field) []byte {
	b = appendInts(b, uint64(len(fields)))
	for _, f := range fields {
		if f.IsText {
			b = appendText(appendInts(b, 1), f.Text)
		} else {
			b = appendInts(b, 0, f.Int)
		}
	}
	return b
}
