package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
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

// TestMissingAbilities: every operation on a store that can only answer what is
// valid leaves the connection usable.
func TestMissingAbilities(t *testing.T) {
	w := newWorld(t)
	for _, talk := range conversations {
		if talk.name == "RemovedOperation" {
			continue
		}
		t.Run(talk.name, func(t *testing.T) {
			c := client(t, server(t, Session{Store: bare{w.Store}, Trusted: true}), ClientOptions{MaxConnections: 1})
			_, err := talk.hold(t.Context(), c, newShared(w))
			var fault *Fault
			if err != nil && !errors.Is(err, store.ErrUnsupported) && !errors.As(err, &fault) {
				t.Errorf("error is %v", err)
			}
			before := c.pool.idle
			valid, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello})
			if err != nil || len(valid) != 1 {
				t.Fatalf("afterwards: %v, %v", valid, err)
			}
			if len(before) != 1 || before[0] != c.pool.idle[0] {
				t.Error("the connection was not used again")
			}
		})
	}
}

// TestUntrusted lists what only trusted clients may do.
func TestUntrusted(t *testing.T) {
	w := newWorld(t)
	w.Trusts = func(*store.PathInfo) bool { return false }
	c := client(t, server(t, Session{Store: w}), ClientOptions{MaxConnections: 1})
	if trust, err := c.Trust(t.Context()); err != nil || trust != store.NotTrusted {
		t.Errorf("trust is %d, %v", trust, err)
	}
	ctx := t.Context()
	info := w.foreign(ctx)
	archive := w.nar(ctx, w.hello)
	for name, test := range map[string]struct {
		do   func() error
		want string
	}{
		"repair by building": {func() error {
			_, err := c.BuildPaths(ctx, w.targets(), store.BuildRepair)
			return err
		}, "repairing is not allowed because you are not in 'trusted-users'"},
		"repair by verifying": {func() error {
			_, err := c.Verify(ctx, store.VerifyOptions{Repair: true})
			return err
		}, "you are not privileged to repair paths"},
		"unsigned object": {func() error {
			return c.Add(ctx, info, strings.NewReader(archive), store.AddOptions{NoCheckSigs: true})
		}, "lacks a signature by a trusted key"},
		"unsigned objects": {func() error {
			return c.AddMultiple(ctx, &objects{[]*store.PathInfo{info}, []string{archive}}, store.AddOptions{NoCheckSigs: true})
		}, "lacks a signature by a trusted key"},
		"log":         {func() error { return c.AddBuildLog(ctx, w.drv, strings.NewReader("x")) }, "you are not privileged to add logs"},
		"realisation": {func() error { return c.RegisterRealisations(ctx, []*store.Realisation{{ID: w.id, OutPath: w.out}}) }, "you are not privileged to register"},
		"root": {func() error {
			return c.ask(ctx, opAddPermRoot, func(e *encoder) {
				e.path(w.hello)
				e.Text("/nix/var/nix/gcroots/x")
			}, nil)
		}, "you are not privileged to create perm roots"},
		"input-addressed build": {func() error {
			b := *w.basic
			b.Outputs = map[string]derivation.Output{"out": {Kind: 1, Path: w.out}}
			_, err := c.BuildDerivation(ctx, w.drv, &b, store.BuildNormal)
			return err
		}, "you are not privileged to build input-addressed derivations"},
	} {
		if err := test.do(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is fixed may be built; its path is computed anew.
	if _, err := c.BuildDerivation(ctx, lie(t), w.basic, store.BuildNormal); err != nil {
		t.Errorf("fixed output: %v", err)
	}
	if last := w.built[len(w.built)-1]; !strings.Contains(last, w.drv.Base()) {
		t.Errorf("built %s", last)
	}
	roots, err := c.FindRoots(ctx, false)
	if err != nil || len(roots) == 0 {
		t.Fatalf("roots: %v, %v", roots, err)
	}
	for _, links := range roots {
		for _, link := range links {
			if link != "{censored}" {
				t.Errorf("sees root %s", link)
			}
		}
	}
}

func lie(t *testing.T) storepath.Path {
	p, err := storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-made.drv")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSettingsOfUntrusted(t *testing.T) {
	w := newWorld(t)
	var heard tale
	ctx := activity.With(t.Context(), &heard)
	o := &Options{Verbosity: activity.Info, MaxJobs: 3, Overrides: map[string]string{
		"timeout": "5", "max-silent-time": "6", "build-poll-interval": "7", "builders": "", "sandbox": "false", "plugin-files": "/x",
		"substituters": "https://a.example/ https://b.example https://c.example", "ssh-auth-sock": "/x", "experimental-features": "flakes",
	}}
	c, err := NewClient(ctx, server(t, Session{Store: w, TrustedSubstituters: []string{"https://a.example", "https://c.example/"}}), ClientOptions{Options: o})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := w.settings[0]
	want := map[string]string{
		"keep-failed": "false", "keep-going": "false", "fallback": "false", "max-jobs": "3", "max-silent-time": "6", "verbose-build": "false",
		"cores": "0", "substitute": "false", "timeout": "5", "build-poll-interval": "7", "builders": "",
		"substituters": "https://a.example/ https://c.example",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("settings are %v, not %v", got, want)
	}
	all := strings.Join(heard.lines, "\n")
	for _, words := range []string{
		"ignoring the client-specified setting 'sandbox', because it is a restricted setting and you are not a trusted user",
		"ignoring untrusted substituter 'https://b.example', you are not a trusted user.",
		"Ignoring the client-specified plugin-files",
	} {
		if !strings.Contains(all, words) {
			t.Errorf("was not told: %s", words)
		}
	}
	if strings.Contains(all, "ssh-auth-sock") || strings.Contains(all, "experimental") {
		t.Errorf("was told: %s", all)
	}
}

// hook is a store that calls a function before it answers.
type hook struct {
	*world
	do func(context.Context)
}

func (h *hook) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	h.do(ctx)
	return h.world.ValidPaths(ctx, paths)
}

func (h *hook) Override(map[string]string) (store.Store, error) { return h, nil }

func TestPanicEndsOnlyItsConnection(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	h := &hook{w, func(context.Context) { panic("a bug") }}
	dial := server(t, Session{Store: h, Trusted: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	c := client(t, dial, ClientOptions{MaxConnections: 1})
	roots := c.NewTempRoots()
	defer roots.Close()
	if err := roots.Add(t.Context(), []storepath.Path{w.hello}); err != nil {
		t.Fatal(err)
	}
	_, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello})
	if err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("error is %v", err)
	}
	h.do = func(context.Context) {}
	if _, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello}); err != nil {
		t.Errorf("next connection: %v", err)
	}
	if len(w.TempRooted()) != 1 {
		t.Error("the other connection has lost its roots")
	}
	if !strings.Contains(log.String(), "a bug") || !strings.Contains(log.String(), "serve_test.go") {
		t.Errorf("log: %s", log.String())
	}
}

func TestRootsEndWithConnection(t *testing.T) {
	w := newWorld(t)
	o := Session{Store: w, Trusted: true}
	here, there := socketPair(t)
	done := make(chan error)
	go func() { done <- Serve(context.Background(), there, o) }()
	s := newScript(Latest)
	s.Uint64(opAddTempRoot)
	s.path(w.hello)
	if _, err := here.Write(s.sent()); err != nil {
		t.Fatal(err)
	}
	d := &decoder{Reader: wire.NewReader(here), version: Latest}
	d.Uint64()
	d.Uint64()
	d.features()
	d.Text()
	d.Uint64()
	wantLast(t, d)
	wantLast(t, d)
	if got := w.TempRooted(); len(got) != 1 {
		t.Errorf("rooted are %v", got)
	}
	_ = here.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := w.TempRooted(); len(got) != 0 {
		t.Errorf("still rooted are %v", got)
	}
}

func TestHangUpInTheMiddleOfAnUpload(t *testing.T) {
	w := newWorld(t)
	info := w.foreign(t.Context())
	archive := w.nar(t.Context(), w.hello)
	for cut := 0; cut < len(archive); cut += 24 {
		s := newScript(Latest)
		s.Uint64(opAddToStoreNar)
		s.path(info.Path)
		s.encoder.info(info)
		s.Bool(false)
		s.Bool(true)
		f := wire.NewFrameWriter(s.encoder.Writer)
		_, _ = io.WriteString(f, archive[:cut])
		_, err := play(t, Session{Store: w, Trusted: true}, Latest, bytes.NewReader(s.sent()))
		if err == nil {
			t.Fatalf("cut at %d: ends well", cut)
		}
	}
	if valid, _ := w.Store.ValidPaths(t.Context(), []storepath.Path{info.Path}); len(valid) != 0 {
		t.Error("half an object is valid")
	}
}

// TestUploadRefusedAtOnce: a client hears of an error before it has sent all,
// and what it still sends does no harm.
func TestUploadRefusedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.Trusts = func(*store.PathInfo) bool { return false }
	c := client(t, server(t, Session{Store: w}), ClientOptions{MaxConnections: 1})
	info := w.foreign(t.Context())
	endless := &counted{r: io.MultiReader(strings.NewReader(endlessHeader), zeros{})}
	err := c.Add(t.Context(), info, endless, store.AddOptions{})
	if !errors.Is(err, store.ErrNoSignature) {
		t.Fatalf("error is %v", err)
	}
	before := c.pool.idle[0]
	if valid, err := c.ValidPaths(t.Context(), []storepath.Path{w.hello}); err != nil || len(valid) != 1 || c.pool.idle[0] != before {
		t.Errorf("afterwards: %v, %v", valid, err)
	}
}

// endlessHeader begins the NAR of a very large file.
var endlessHeader = func() string {
	var b []byte
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		b = appendText(b, s)
	}
	return string(appendInts(b, 1<<60))
}()

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func TestValidObjectIsNotSent(t *testing.T) {
	w := newWorld(t)
	c := client(t, server(t, Session{Store: w, Trusted: true}), ClientOptions{})
	infos, err := w.PathInfos(t.Context(), []storepath.Path{w.hello})
	if err != nil {
		t.Fatal(err)
	}
	src := &counted{r: zeros{}}
	if err := c.Add(t.Context(), infos[0], src, store.AddOptions{}); err != nil || src.n != 0 {
		t.Errorf("read %d bytes, %v", src.n, err)
	}
	// A stock client sends it all the same.
	s := newScript(Latest)
	s.Uint64(opAddToStoreNar)
	s.path(w.hello)
	s.encoder.info(infos[0])
	s.Bool(false)
	s.Bool(false)
	f := wire.NewFrameWriter(s.encoder.Writer)
	_, _ = f.Write(make([]byte, 100_000))
	_ = f.Close()
	s.Uint64(opIsValidPath)
	s.path(w.hello)
	d, err := play(t, Session{Store: w}, Latest, bytes.NewReader(s.sent()))
	if err != nil {
		t.Fatal(err)
	}
	wantLast(t, d)
	wantLast(t, d)
	if !d.Bool() {
		t.Error("the next answer is wrong")
	}
}

// TestManyConnections holds two hundred conversations at once.
func TestManyConnections(t *testing.T) {
	w := newWorld(t)
	dial := server(t, Session{Store: w, Trusted: true})
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			c, err := NewClient(t.Context(), dial, ClientOptions{MaxConnections: 1})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for range 20 {
				infos, err := c.PathInfos(t.Context(), []storepath.Path{w.hello, w.missing, w.user})
				if err != nil || infos[0] == nil || infos[1] != nil || infos[2] == nil {
					t.Errorf("%v, %v", infos, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestSlowReader: a client that asks for much and does not listen stops its own
// connection, no other.
func TestSlowReader(t *testing.T) {
	w := newWorld(t)
	var busy sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	here, there := socketPair(t)
	busy.Go(func() {
		defer there.Close()
		if err := Serve(ctx, there, Session{Store: w, Trusted: true}); err == nil {
			t.Error("a client that does not listen was served to its end")
		}
	})
	s := newScript(Latest)
	for range 20_000 {
		s.Uint64(opQueryPathInfo)
		s.path(w.user)
	}
	busy.Go(func() { _, _ = here.Write(s.sent()) }) // ends with the connection
	c := client(t, server(t, Session{Store: w}), ClientOptions{})
	for range 100 {
		if _, err := c.PathInfos(t.Context(), []storepath.Path{w.hello}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	busy.Wait()
}

func TestBusy(t *testing.T) {
	w := newWorld(t)
	var states []bool
	here, there := socketPair(t)
	done := make(chan error)
	go func() {
		done <- Serve(context.Background(), there, Session{Store: w, Busy: func(b bool) { states = append(states, b) }})
	}()
	k := &conn{nc: here, in: &decoder{Reader: wire.NewReader(here), dir: w.Dir()}, out: &encoder{Writer: wire.NewWriter(here), dir: w.Dir()}}
	if err := k.greet(t.Context(), Latest); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := k.ask(t.Context(), opIsValidPath, func(e *encoder) { e.path(w.hello) }, acknowledged); err != nil {
			t.Fatal(err)
		}
	}
	_ = here.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(states); got != "[false true false true false true false]" {
		t.Errorf("states are %s", got)
	}
}

// TestCancelledOperation: the end of the context ends what is under way, and the
// client is told.
func TestCancelledOperation(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	h := &hook{w, func(ctx context.Context) {
		cancel()
		<-ctx.Done()
	}}
	here, there := socketPair(t)
	done := make(chan error)
	go func() { done <- Serve(ctx, there, Session{Store: h}) }()
	s := newScript(Latest)
	s.Uint64(opIsValidPath)
	s.path(w.hello)
	if _, err := here.Write(s.sent()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ends with %v", err)
	}
	_ = there.Close()
	said, _ := io.ReadAll(here)
	if !strings.Contains(string(said), "interrupted") {
		t.Errorf("client was told %q", said)
	}
}

// TestIdleConnectionEndsWithContext is about the wait for a request.
func TestIdleConnectionEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	here, there := socketPair(t)
	done := make(chan error)
	waiting := make(chan bool, 4)
	go func() { done <- Serve(ctx, there, Session{Store: newWorld(t), Busy: func(b bool) { waiting <- b }}) }()
	if _, err := here.Write(newScript(Latest).sent()); err != nil {
		t.Fatal(err)
	}
	<-waiting
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ends with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still waits")
	}
}
