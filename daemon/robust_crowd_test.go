package daemon_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/wire"
	"github.com/strata-nix/strata/worker"
)

// pss is the memory of a process in bytes, its share of what is shared.
func pss(t *testing.T, p *testenv.Process) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no Pss in %s", text)
	return 0
}

// Two hundred connections at once, each with a handshake, questions and an upload;
// twenty more hang in the middle of a request.
func TestTwoHundredConnections(t *testing.T) {
	r := newRig(t, testenv.Scratch(t))
	r.args = append(r.args, "--force-trusted", "--drain-timeout", "100ms")
	r.start()
	base := file(t, "base", 100)
	r.add(r.client(), base)
	const clients, hanging = 200, 20
	for i := range hanging {
		c := r.greet()
		o := file(t, fmt.Sprintf("hanging-%d", i), 100_000)
		c.addNar(o)
		switch i % 4 {
		case 0: // in the request
		case 1: // in a frame
			c.Uint64(uint64(len(o.NAR)))
			c.flush()
			if _, err := c.Write(o.NAR[:50_000]); err != nil {
				t.Fatal(err)
			}
		case 2: // between frames
			c.Bytes(o.NAR[:64])
		case 3: // before the end
			c.Uint64(uint64(len(o.NAR)))
			c.flush()
			if _, err := c.Write(o.NAR); err != nil {
				t.Fatal(err)
			}
		}
		c.flush()
	}
	var all []storetest.Object
	for i := range clients {
		all = append(all, file(t, fmt.Sprintf("client-%d", i), 3000, base.Path()))
	}
	ready, begin := make(chan struct{}, clients), make(chan struct{})
	errs := make(chan error, clients)
	for i := range clients {
		go func() {
			c, err := worker.NewClient(t.Context(), worker.DialUnix(r.socket), worker.ClientOptions{})
			ready <- struct{}{}
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			<-begin
			errs <- visit(t, c, base, all[i])
		}()
	}
	for range clients {
		<-ready // all are connected
	}
	close(begin)
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if mem := pss(t, r.proc); mem > 150<<20 {
		t.Errorf("the daemon takes %d MiB", mem>>20)
	}
	r.valid(r.client(), true, all...)
	if err := r.proc.Stop(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
}

// visit is what one of the many does.
func visit(t *testing.T, c *worker.Client, base, o storetest.Object) error {
	ctx := t.Context()
	if v, err := c.ValidPaths(ctx, pathsOf(base, o)); err != nil || len(v) != 1 {
		return fmt.Errorf("valid: %v, %w", v, err)
	}
	if err := c.Add(ctx, o.Info, o.Reader(), unsigned); err != nil {
		return err
	}
	infos, err := c.PathInfos(ctx, pathsOf(o))
	if err != nil || infos[0] == nil || infos[0].NarHash != o.Info.NarHash {
		return fmt.Errorf("path info %v: %w", infos, err)
	}
	var got bytes.Buffer
	if err := c.NarFromPath(ctx, o.Path(), &got); err != nil || !bytes.Equal(got.Bytes(), o.NAR) {
		return fmt.Errorf("%d bytes of %d, %w", got.Len(), len(o.NAR), err)
	}
	return nil
}

// A client that hangs in the middle of a closure keeps others from adding the one
// object that it is at, and from nothing else.
func TestHangingClientHoldsOneObject(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	small, big, after := file(t, "small", 1000), file(t, "big", 8<<20), file(t, "after", 1000)
	g := gated(big, 2<<20)
	hanging, c := r.client(), r.client()
	done := make(chan error, 1)
	go func() {
		done <- hanging.AddMultiple(t.Context(), &gatedSource{objects: []storetest.Object{small, big, after}, gate: g}, unsigned)
	}()
	r.unpacking(1 << 20)
	r.valid(c, true, small)
	r.add(c, small, after)
	close(g.open)
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.holds(small, big, after)
}

// lies are beginnings of requests that promise more than anybody has.
var lies = []struct {
	name string
	say  func(c *raw, o storetest.Object)
}{
	{"string of 2^62", func(c *raw, _ storetest.Object) { c.Uint64(opIsValidPath); c.Uint64(1 << 62) }},
	{"string of 2^64-1", func(c *raw, _ storetest.Object) { c.Uint64(opIsValidPath); c.Uint64(math.MaxUint64) }},
	{"string of as much as is allowed", func(c *raw, _ storetest.Object) {
		c.Uint64(opAddTextToStore)
		c.Text("x")
		c.Uint64(wire.MaxString)
	}},
	{"list of 2^40", func(c *raw, _ storetest.Object) { c.Uint64(31); c.Uint64(1 << 40) }},
	{"list of 2^63", func(c *raw, _ storetest.Object) { c.Uint64(31); c.Uint64(1 << 63) }},
	{"list of as much as is allowed", func(c *raw, _ storetest.Object) { c.Uint64(31); c.Uint64(wire.MaxList) }},
	{"references of 2^40", func(c *raw, o storetest.Object) {
		c.Uint64(opAddToStoreNar)
		c.Text(nixDir.Print(o.Path()))
		c.Text("")
		c.Text(o.Info.NarHash.String())
		c.Uint64(1 << 40)
	}},
	{"settings of 2^32", func(c *raw, _ storetest.Object) {
		c.Uint64(opSetOptions)
		for range 12 {
			c.Uint64(1)
		}
		c.Uint64(1 << 32)
	}},
	{"frame of 2^62", func(c *raw, o storetest.Object) { c.addNar(o); c.Uint64(1 << 62) }},
	{"NAR of 2^62", func(c *raw, o storetest.Object) {
		info := o.Info.Clone()
		info.NarSize = 1 << 62
		c.addNar(storetest.Object{Info: info})
		head := o.NAR[:96]
		c.Uint64(uint64(len(head)))
		c.flush()
		_, _ = c.Write(head)
	}},
	{"file of 2^62", func(c *raw, o storetest.Object) {
		c.addNar(o)
		nar := bytes.Clone(o.NAR[:200])
		i := bytes.Index(nar, []byte("contents")) + len("contents")
		binary.LittleEndian.PutUint64(nar[i:], 1<<62)
		c.Uint64(uint64(len(nar)))
		c.flush()
		_, _ = c.Write(nar)
	}},
	{"2^40 objects", func(c *raw, _ storetest.Object) {
		c.Uint64(opAddMultiple)
		c.Bool(false)
		c.Bool(true)
		c.Uint64(8)
		c.Uint64(1 << 40)
	}},
	{"features of 2^40", nil},
}

// A client that lies about lengths costs memory for what it sends, not for what
// it says.
func TestLyingAboutLengths(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	o := file(t, "object", 100_000)
	warm := r.client()
	r.add(warm, o)
	lied := file(t, "lied", 100_000)
	before := pss(t, r.proc)
	const each = 20
	var open []*raw
	for _, lie := range lies {
		for range each {
			var c *raw
			if lie.say == nil {
				c = r.dial()
				c.Uint64(clientMagic)
				c.Uint64(latest)
				c.Uint64(1 << 40)
			} else {
				c = r.greet()
				lie.say(c, lied)
			}
			_ = c.Flush() // it may have hung up already
			open = append(open, c)
		}
	}
	r.valid(warm, true, o)
	r.valid(warm, false, lied)
	after := pss(t, r.proc)
	// Each connection has buffers; the lies would be exabytes.
	if per := (after - before) / len(open); per > 400<<10 {
		t.Errorf("%d lies took %d KiB each", len(open), per>>10)
	}
	if after > 150<<20 {
		t.Errorf("the daemon takes %d MiB", after>>20)
	}
	for _, c := range open {
		c.Close()
	}
	r.holds(o)
}

// Ever more that is allowed each by itself, and sent, must not add up.
func TestLargeRequestsOneAfterTheOther(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	c := r.greet()
	text := strings.Repeat("x", 8<<20)
	for range 8 {
		c.Uint64(opAddTextToStore)
		c.Text("bad name!")
		c.Text(text)
		c.Strings(nil)
		c.flush()
		if msg := c.hear(); !strings.Contains(msg, "bad name!") {
			t.Errorf("the answer is %q", msg)
		}
	}
	if mem := pss(t, r.proc); mem > 150<<20 {
		t.Errorf("the daemon takes %d MiB", mem>>20)
	}
}

// What hangs up, whenever, leaves nothing behind and disturbs nobody.
func TestClientsThatHangUp(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	o := file(t, "object", 3000)
	text := upload(t, o)
	text = text[:len(text)-8] // without the last frame
	for n := 0; n < len(text); n += 1 + n/3 {
		c := r.dial()
		if _, err := c.Write(text[:n]); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	c := r.client()
	r.valid(c, false, o)
	eventually(t, "nothing is left", func() bool { return len(r.entries()) == 0 })
	r.add(c, o)
	if strings.Contains(r.proc.Output(), "panic") {
		t.Error("there was a panic")
	}
}

// Handshakes that no client does get an error or the end, and the daemon stays.
func TestHostileHandshakes(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	ints := func(n ...uint64) []byte {
		var b []byte
		for _, i := range n {
			b = binary.LittleEndian.AppendUint64(b, i)
		}
		return b
	}
	for _, c := range []struct {
		name string
		say  []byte
		want string // in what comes back, or in the log
	}{
		{"nothing", nil, ""},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), "protocol mismatch"},
		{"ssh", []byte("SSH-2.0-OpenSSH_9.9\r\n"), "protocol mismatch"},
		{"the server's own magic", ints(0x6478696f, latest), "protocol mismatch"},
		{"protocol 1.1", ints(clientMagic, 1<<8|1), "too old"},
		{"protocol 0", ints(clientMagic, 0), "too old"},
		{"protocol 1.17", ints(clientMagic, 1<<8|17, 0, 0), "too old"},
		{"protocol 255.255", ints(clientMagic, 0xffff, 0, 0, 0), ""},
		{"protocol 2^64-1", ints(clientMagic, math.MaxUint64, 0, 0, 0), ""},
		{"zeros", make([]byte, 4096), "protocol mismatch"},
		{"ones", bytes.Repeat([]byte{0xff}, 4096), "protocol mismatch"},
	} {
		before := r.proc.Output()
		conn := r.dial()
		_, _ = conn.Write(c.say) // the daemon may hang up while we speak
		if uc, ok := conn.Conn.(interface{ CloseWrite() error }); ok {
			_ = uc.CloseWrite()
		}
		answer, _ := io.ReadAll(conn) // a reset says as much
		eventually(t, c.name+": "+c.want, func() bool {
			return strings.Contains(string(answer)+strings.TrimPrefix(r.proc.Output(), before), c.want)
		})
	}
	r.add(r.client(), file(t, "after-all", 10))
}

func TestUnknownOperations(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	for _, op := range []uint64{0, 2, 15, 17, 48, 1000, 1 << 32, math.MaxUint64} {
		c := r.greet()
		c.Uint64(op)
		c.flush()
		if msg := c.hear(); !strings.Contains(msg, fmt.Sprint(op)) {
			t.Errorf("operation %d: %q", op, msg)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("operation %d: the connection goes on: %v", op, err)
		}
	}
	r.valid(r.client(), false, file(t, "x", 1))
}

// Clients that send a byte now and then do not keep others waiting.
func TestSlowClients(t *testing.T) {
	r := startRig(t, testenv.Scratch(t))
	const clients = 20
	var slow []*raw
	var texts [][]byte
	var objects []storetest.Object
	for i := range clients {
		o := file(t, fmt.Sprintf("slow-%02d", i), 2000)
		objects, texts, slow = append(objects, o), append(texts, upload(t, o)), append(slow, r.dial())
	}
	quick := r.client()
	for i := range texts[0] {
		for n, c := range slow {
			if _, err := c.Write(texts[n][i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if i%200 == 0 {
			r.add(quick, file(t, fmt.Sprintf("quick-%d", i), 100))
		}
	}
	for _, c := range slow {
		c.greeted()
		if msg := c.hear(); msg != "" {
			t.Error(msg)
		}
	}
	r.valid(quick, true, objects...)
}

// upload is all that a client says to upload an object.
func upload(t *testing.T, o storetest.Object) []byte {
	t.Helper()
	var said bytes.Buffer
	c := &raw{t: t, Writer: wire.NewWriter(&said)}
	c.Uint64(clientMagic)
	c.Uint64(1<<8 | 37)
	c.Uint64(0)
	c.Uint64(0)
	c.addNar(o)
	c.Bytes(o.NAR) // a frame looks like this, if it needs no padding
	c.Uint64(0)
	c.flush()
	return said.Bytes()
}
