package worker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// script is what a client sends, put together by hand.
type script struct {
	bytes.Buffer
	*encoder
}

func newScript(v Version) *script {
	s := new(script)
	s.encoder = &encoder{Writer: wire.NewWriter(&s.Buffer), dir: storepath.DefaultDir, version: v}
	s.Uint64(clientMagic)
	s.Uint64(uint64(v))
	if v >= v1+38 {
		s.Strings([]string{"unheard-of"})
	}
	s.Uint64(0)
	s.Uint64(0)
	return s
}

func (s *script) sent() []byte {
	_ = s.encoder.Flush()
	return s.Buffer.Bytes()
}

// play gives a server all that a client sends, and what it answers after the
// handshake.
func play(t testing.TB, o Session, v Version, sent io.Reader) (*decoder, error) {
	t.Helper()
	var answer bytes.Buffer
	err := Serve(t.Context(), struct {
		io.Reader
		io.Writer
	}{sent, &answer}, o)
	d := &decoder{Reader: wire.NewReader(&answer), dir: storepath.DefaultDir, version: v}
	if d.Uint64() != serverMagic || d.Uint64() != uint64(Latest) {
		return d, err
	}
	if v >= v1+38 {
		d.features()
	}
	if v >= v1+33 {
		d.Text()
	}
	if v >= v1+35 {
		d.Uint64()
	}
	if msg := d.Uint64(); d.Err() == nil && msg != msgLast {
		t.Errorf("handshake ends with %#x", msg)
	}
	return d, err
}

func wantFault(t testing.TB, d *decoder, words string) {
	t.Helper()
	if msg := d.Uint64(); msg != msgError {
		t.Fatalf("answer begins with %#x (%v), not an error with %q", msg, d.Err(), words)
	}
	if f := d.fault(); !strings.Contains(f.Message, words) {
		t.Errorf("error is %q, not %q", f.Message, words)
	}
}

func wantLast(t testing.TB, d *decoder) {
	t.Helper()
	if msg := d.Uint64(); msg == msgError {
		t.Fatalf("error: %v", d.fault())
	} else if msg != msgLast {
		t.Fatalf("answer begins with %#x (%v)", msg, d.Err())
	}
}

func TestHandshakeFailures(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]struct {
		words []uint64
		want  error
	}{
		"garbage":        {[]uint64{0x20544547, 0, 0}, ErrProtocol},
		"server's magic": {[]uint64{serverMagic, 0x126, 0, 0}, ErrProtocol},
		"nothing":        {nil, io.ErrUnexpectedEOF},
		"only magic":     {[]uint64{clientMagic}, io.ErrUnexpectedEOF},
		"too old":        {[]uint64{clientMagic, uint64(v1 + 17), 0, 0}, ErrTooOld},
		"many features":  {[]uint64{clientMagic, uint64(Latest), 1 << 20}, wire.ErrFormat},
	} {
		var answer bytes.Buffer
		err := Serve(t.Context(), struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(appendInts(nil, test.words...)), &answer}, Session{Store: w})
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "too old" && !strings.Contains(answer.String(), "the Nix client version is too old") {
			t.Errorf("an old client is told %q", answer.String())
		}
	}
	// A client from the future is served as one of today.
	s := newScript(Latest)
	binary.LittleEndian.PutUint64(s.sent()[8:], uint64(v1+200))
	if _, err := play(t, Session{Store: w}, Latest, bytes.NewReader(s.sent())); err != nil {
		t.Errorf("newer client: %v", err)
	}
}

// TestOldestClients sends what only clients before 1.21 send: archives without
// frames.
func TestOldestClients(t *testing.T) {
	for v := MinimumServed; v < v1+23; v++ {
		w := newWorld(t)
		info := w.foreign(t.Context())
		archive := w.nar(t.Context(), w.hello)
		s := newScript(v)
		s.Uint64(opAddToStore) // a tree, then a file by its SHA-1
		s.Text("tree")
		s.Bool(false)
		s.Bool(true)
		s.Text("sha256")
		_, _ = io.WriteString(s.encoder, archive)
		s.Uint64(opAddToStore)
		s.Text("file")
		s.Bool(true)
		s.Bool(false)
		s.Text("sha1")
		_, _ = io.WriteString(s.encoder, archive)
		if v < v1+21 {
			s.Uint64(opAddToStoreNar)
			s.path(info.Path)
			s.encoder.info(info)
			s.Bool(false)
			s.Bool(false)
			_, _ = io.WriteString(s.encoder, archive)
		}
		s.Uint64(opIsValidPath)
		s.path(w.hello)
		d, err := play(t, Session{Store: w}, v, iotest.HalfReader(bytes.NewReader(s.sent())))
		if err != nil {
			t.Fatalf("%s: %v", v, err)
		}
		wantLast(t, d)
		tree := d.path()
		wantLast(t, d)
		file := d.path()
		infos, err := w.PathInfos(t.Context(), []storepath.Path{tree, file, info.Path})
		if err != nil {
			t.Fatal(err)
		}
		if got := infos[0].CA.String(); !strings.HasPrefix(got, "fixed:r:sha256:") {
			t.Errorf("%s: tree has address %q", v, got)
		}
		if got := infos[1].CA.Hash; got != nixhash.Of(nixhash.SHA1, "hello, world\n") {
			t.Errorf("%s: file has address %q", v, infos[1].CA)
		}
		if v < v1+21 {
			wantLast(t, d)
			if infos[2] == nil || infos[2].Ultimate {
				t.Errorf("%s: added %+v", v, infos[2])
			}
		}
		wantLast(t, d)
		if !d.Bool() || d.Uint64() != 0 || !errors.Is(d.Err(), io.EOF) {
			t.Errorf("%s: after the last answer: %v", v, d.Err())
		}
	}
}

// TestTruncatedRequests cuts every conversation at every byte.
func TestTruncatedRequests(t *testing.T) {
	for _, talk := range conversations {
		w := newWorld(t)
		var rec recorder
		c := client(t, rec.dial(server(t, Session{Store: w, Trusted: true})), ClientOptions{MaxConnections: 1})
		_, _ = talk.hold(t.Context(), c, w) // what it gives is tested elsewhere
		_ = c.Close()
		whole := rec.sent
		for n := 0; n < len(whole); n += 1 + n/300 {
			var answer bytes.Buffer
			err := Serve(t.Context(), struct {
				io.Reader
				io.Writer
			}{bytes.NewReader(whole[:n]), &answer}, Session{Store: newShared(w), Trusted: true})
			if n%8 != 0 && err == nil {
				t.Fatalf("%s cut at byte %d ends well", talk.name, n)
			}
		}
	}
}

// newShared is a world that shares the contents of another.
func newShared(w *world) *world {
	return &world{Store: w.Store, hello: w.hello, user: w.user, drv: w.drv, out: w.out, missing: w.missing, id: w.id, basic: w.basic}
}

// TestLies is about requests that say something impossible.
func TestLies(t *testing.T) {
	const huge = 1 << 62
	w := newWorld(t)
	for name, test := range map[string]struct {
		say  func(s *script)
		want string // in the error that the client gets
		goes bool   // the connection goes on
	}{
		"unknown operation":     {func(s *script) { s.Uint64(999) }, "invalid operation 999", false},
		"operation zero":        {func(s *script) { s.Uint64(0) }, "invalid operation 0", false},
		"removed operation":     {func(s *script) { s.Uint64(opExportPath); s.path(w.hello); s.Uint64(0) }, "invalid operation 16", false},
		"extension":             {func(s *script) { s.Uint64(opQueryClosure); s.paths(nil) }, "invalid operation 1392508929", false},
		"path of a terabyte":    {func(s *script) { s.Uint64(opIsValidPath); s.Uint64(1 << 40) }, "string of 1099511627776 bytes", false},
		"path without store":    {func(s *script) { s.Uint64(opIsValidPath); s.Text("/etc/passwd") }, "is not in the Nix store", true},
		"path upwards":          {func(s *script) { s.Uint64(opQueryPathInfo); s.Text("/nix/store/../../etc") }, "is not in the Nix store", true},
		"relative path":         {func(s *script) { s.Uint64(opQueryReferrers); s.Text("x") }, "is not in the Nix store", true},
		"path with bad padding": {func(s *script) { s.Uint64(opIsValidPath); s.Uint64(1); s.Uint64(0xffff) }, "padding", false},
		"huge list":             {func(s *script) { s.Uint64(opQueryValidPaths); s.Uint64(huge) }, "number", false},
		"list that ends early":  {func(s *script) { s.Uint64(opQueryValidPaths); s.Uint64(1 << 20) }, "EOF", false},
		"bad path in a list": {func(s *script) {
			s.Uint64(opQueryValidPaths)
			s.Strings([]string{"/nix/store/x", s.dir.Print(w.hello)})
			s.Uint64(0)
		}, "too short", true},
		"hash part":  {func(s *script) { s.Uint64(opQueryPathFromHashPart); s.Text("../../../../../../../../../../x") }, "hash part", true},
		"build mode": {func(s *script) { s.Uint64(opBuildPaths); s.Uint64(0); s.Uint64(9) }, "Invalid build mode", true},
		"GC action": {func(s *script) {
			s.Uint64(opCollectGarbage)
			for _, n := range []uint64{77, 0, 0, 0, 0, 0, 0} {
				s.Uint64(n)
			}
		}, "Invalid GC action", true},
		"derived path": {func(s *script) { s.Uint64(opQueryMissing); s.Strings([]string{s.dir.Print(w.drv) + "!a b"}) }, "malformed derived path", true},
		"settings":     {func(s *script) { s.Uint64(opSetOptions); s.skip(12); s.Uint64(1 << 20) }, "1048576 settings", false},
		"realisation":  {func(s *script) { s.Uint64(opRegisterDrvOutput); s.Text("{}") }, "malformed realisation", true},
		"output id":    {func(s *script) { s.Uint64(opQueryRealisation); s.Text("x") }, "invalid derivation output id", true},
		"derivation name": {func(s *script) { s.Uint64(opBuildDerivation); s.path(w.hello) },
			"not a valid derivation path", false},
		"signature": {func(s *script) { s.Uint64(opAddSignatures); s.path(w.hello); s.Strings([]string{"x"}) }, "malformed signature", true},
		"hash of an upload": {func(s *script) {
			s.Uint64(opAddToStoreNar)
			s.path(w.missing)
			for _, text := range []string{"", "xyz"} {
				s.Text(text)
			}
			s.skip(8)
			s.Uint64(8) // a frame that must be passed over
			s.Uint64(opIsValidPath)
			s.Uint64(0)
		}, "malformed hash", true},
		"address of an upload": {func(s *script) {
			s.Uint64(opAddToStore)
			s.Text("name")
			s.Text("fixed:r:sha3")
			s.Uint64(0)
			s.Uint64(0)
			s.Uint64(0)
		}, "unknown hash algorithm", true},
		"name of an upload": {func(s *script) {
			s.Uint64(opAddToStore)
			s.Text("../name")
			s.Text("fixed:sha256")
			s.Uint64(0)
			s.Uint64(0)
			s.Uint64(0)
		}, "cannot name a store object", true},
		"uploads without end": {func(s *script) {
			s.Uint64(opAddMultipleToStore)
			s.Uint64(0)
			s.Uint64(0)
			s.Uint64(8) // one frame with the number of objects, and nothing else
			s.Uint64(1 << 30)
			s.Uint64(0)
		}, "unexpected EOF", true},
		"frame of an exabyte": {func(s *script) {
			s.Uint64(opAddMultipleToStore)
			s.Uint64(0)
			s.Uint64(0)
			s.Uint64(huge)
			s.Uint64(1)
		}, "EOF", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(Latest)
			test.say(s)
			s.Uint64(opIsValidPath)
			s.path(w.hello)
			if strings.Contains(test.want, "EOF") && !test.goes {
				s.encoder.Flush()
				s.Buffer.Truncate(s.Buffer.Len() - 64)
			}
			d, err := play(t, Session{Store: w, Trusted: true}, Latest, bytes.NewReader(s.sent()))
			wantFault(t, d, test.want)
			if !test.goes {
				if err == nil {
					t.Error("the connection goes on")
				}
				return
			}
			if err != nil {
				t.Fatalf("the connection ends: %v", err)
			}
			wantLast(t, d)
			if !d.Bool() {
				t.Error("the answer after the error is wrong")
			}
		})
	}
}

func (s *script) skip(n int) {
	for range n {
		s.Uint64(0)
	}
}

// TestLiesCostNothing: what a client announces and does not send takes no memory.
func TestLiesCostNothing(t *testing.T) {
	w := newWorld(t)
	s := newScript(Latest)
	s.Uint64(opAddTextToStore)
	s.Text("name")
	s.Uint64(wire.MaxString)
	sent := s.sent()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		if _, err := play(t, Session{Store: w}, Latest, bytes.NewReader(sent)); err == nil {
			t.Fatal("took half a string")
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / 100; got > 1<<20 {
		t.Errorf("%d bytes for a string that never came", got)
	}
}
