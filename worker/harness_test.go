package worker

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// socketPair gives two ends of a Unix socket.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket pair")
		ends[i], err = net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}

// server serves each connection that is dialled; the test ends when all of them
// have.
func server(t testing.TB, o Session) Dialer {
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	if o.Version == "" {
		o.Version = "2.34.8 test"
	}
	return func(context.Context) (net.Conn, error) {
		here, there := socketPair(t)
		running.Go(func() {
			_ = Serve(ctx, there, o) // what went wrong is the client's business
			_ = there.Close()
		})
		return here, nil
	}
}

func client(t testing.TB, dial Dialer, o ClientOptions) *Client {
	t.Helper()
	c, err := NewClient(t.Context(), dial, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// world is a store with something in it and with all abilities.
type world struct {
	*memstore.Store
	hello, user, drv, out, missing storepath.Path
	id                             store.DrvOutput
	basic                          *derivation.Basic

	mu       sync.Mutex
	built    []string
	settings []map[string]string
}

const someHash = "sha256:15e3c560894cbb27085cf65b5a2ecb18488c999497f4531b6907a7581ce6d527"

func newWorld(t testing.TB) *world {
	w := &world{Store: memstore.New(storepath.DefaultDir)}
	w.Now = 1700000000
	w.hello = w.AddText(t, "hello", "hello, world\n")
	w.user = w.AddText(t, "user", "uses "+w.Dir().Print(w.hello), w.hello)
	info, err := w.AddDump(t.Context(), store.Dump{
		Name:     "made",
		Spec:     storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256},
		Contents: strings.NewReader("made"),
	}, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.out = info.Path
	w.basic = &derivation.Basic{
		Name:     "made",
		Outputs:  map[string]derivation.Output{"out": {Kind: derivation.Fixed, CA: info.CA}},
		Platform: "x86_64-linux",
		Builder:  "/bin/sh",
		Args:     []string{"-c", "printf made > $out"},
		Env:      map[string]string{"name": "made", "out": w.Dir().Print(w.out)},
	}
	d := derivation.Derivation{Basic: *w.basic}
	text, err := d.ATerm(w.Dir())
	if err != nil {
		t.Fatal(err)
	}
	w.drv = w.AddText(t, "made.drv", string(text))
	w.missing, err = storepath.ParseBase("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-missing")
	if err != nil {
		t.Fatal(err)
	}
	h, err := nixhash.Parse(someHash)
	if err != nil {
		t.Fatal(err)
	}
	w.id = store.DrvOutput{DrvHash: h, Output: "out"}
	r := &store.Realisation{ID: w.id, OutPath: w.out, Signatures: []store.Signature{"key:c2ln"}}
	if err := w.RegisterRealisations(t.Context(), []*store.Realisation{r}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.built = append(w.built, what)
}

func (w *world) QueryMissing(_ context.Context, targets []derivation.DerivedPath) (*store.Missing, error) {
	m := &store.Missing{DownloadSize: 1000, NarSize: 5000}
	for _, t := range targets {
		if t.IsOpaque() {
			m.WillSubstitute = append(m.WillSubstitute, t.Path)
		} else {
			m.WillBuild = append(m.WillBuild, t.Path)
		}
	}
	return m, nil
}

func (w *world) EnsurePath(ctx context.Context, p storepath.Path) error {
	w.note("ensure " + p.Name())
	_, err := store.PathInfoOf(ctx, w, p)
	return err
}

func (w *world) BuildPaths(ctx context.Context, targets []derivation.DerivedPath, mode store.BuildMode) ([]*store.BuildResult, error) {
	activity.Logf(ctx, activity.Notice, "building")
	var out []*store.BuildResult
	for _, t := range targets {
		w.note(fmt.Sprintf("build %s %d", t, mode))
		r := &store.BuildResult{Path: t, Status: store.Built, TimesBuilt: 1, Start: 1700000001, Stop: 1700000002, CPUUser: 1500000}
		switch {
		case t.Path == w.missing:
			r.Status, r.Message = store.PermanentFailure, "builder for 'missing' failed with exit code 1"
		case t.IsOpaque():
			r.Status = store.AlreadyValid
		default:
			r.Outputs = map[string]*store.Realisation{"out": {ID: w.id, OutPath: w.out}}
		}
		out = append(out, r)
	}
	return out, nil
}

func (w *world) BuildDerivation(_ context.Context, drv storepath.Path, b *derivation.Basic, mode store.BuildMode) (*store.BuildResult, error) {
	w.note(fmt.Sprintf("build derivation %s %s %d", drv, b.Builder, mode))
	return &store.BuildResult{Status: store.NotDeterministic, Message: "differs", NonDeterministic: true}, nil
}

func (w *world) SubstitutablePaths(_ context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	return slices.DeleteFunc(slices.Clone(paths), func(p storepath.Path) bool { return p != w.missing }), nil
}

func (w *world) Substitutables(_ context.Context, paths []storepath.Path, _ []storepath.ContentAddress) ([]*store.Substitutable, error) {
	out := make([]*store.Substitutable, len(paths))
	for i, p := range paths {
		if p == w.missing {
			out[i] = &store.Substitutable{Path: p, Deriver: w.drv, References: []storepath.Path{w.hello}, DownloadSize: 100, NarSize: 200}
		}
	}
	return out, nil
}

func (w *world) Override(settings map[string]string) (store.Store, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settings = append(w.settings, settings)
	return w, nil
}

// bare hides all abilities of a store.
type bare struct{ store.Querier }

func (bare) Dir() storepath.Dir { return storepath.DefaultDir }
func (bare) URI() string        { return "bare://" }
func (bare) Close() error       { return nil }

// objects is an ObjectSource, sized.
type objects struct {
	infos []*store.PathInfo
	nars  []string
}

func (o *objects) Len() int { return len(o.infos) }

func (o *objects) Next() (*store.PathInfo, io.Reader, error) {
	if len(o.infos) == 0 {
		return nil, nil, io.EOF
	}
	i, n := o.infos[0], o.nars[0]
	o.infos, o.nars = o.infos[1:], o.nars[1:]
	return i, strings.NewReader(n), nil
}

// narOf gets an object out of a store.
func narOf(t testing.TB, s store.NarSource, p storepath.Path) string {
	t.Helper()
	var b strings.Builder
	if err := s.NarFromPath(t.Context(), p, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// tale is a sink that writes down what it is told.
type tale struct {
	mu    sync.Mutex
	lines []string
}

func (s *tale) add(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *tale) Log(level activity.Level, text string) { s.add("log %d %s", level, text) }
func (s *tale) Start(e activity.Event)                { s.add("start %d %s %v", e.Type, e.Text, e.Fields) }
func (s *tale) Stop(uint64)                           { s.add("stop") }
func (s *tale) Result(_ uint64, what activity.ResultType, fields []activity.Field) {
	s.add("result %d %v", what, fields)
}
