package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

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

// TestOwnSourceFails: what could not be read must not become valid by what came
// before.
func TestOwnSourceFails(t *testing.T) {
	w := newWorld(t)
	c := client(t, server(t, Session{Store: w, Trusted: true}), ClientOptions{})
	broken := errors.New("disk on fire")
	half := func() io.Reader { return io.MultiReader(strings.NewReader("half"), failingReader{broken}) }
	spec := storepath.Spec{Method: storepath.Flat, Algorithm: nixhash.SHA256}
	if _, err := c.AddDump(t.Context(), store.Dump{Name: "x", Spec: spec, Contents: half()}, store.AddOptions{}); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	if err := c.AddBuildLog(t.Context(), w.drv, half()); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	info := w.foreign(t.Context())
	cut := w.nar(t.Context(), w.hello)[:60]
	if err := c.Add(t.Context(), info, strings.NewReader(cut), store.AddOptions{NoCheckSigs: true}); err == nil || errors.Is(err, ErrDisconnected) {
		t.Errorf("half an archive: %v", err)
	}
	for _, v := range []Version{v1 + 21, v1 + 24} {
		c := client(t, server(t, Session{Store: w, Trusted: true}), ClientOptions{latest: v})
		if err := c.Add(t.Context(), info, strings.NewReader(cut), store.AddOptions{NoCheckSigs: true}); err == nil || errors.Is(err, ErrDisconnected) {
			t.Errorf("%s: half an archive: %v", v, err)
		}
	}
	if n := len(allOf(t, w)); n != 4 {
		t.Errorf("there are %d objects", n)
	}
	if _, err := w.BuildLog(t.Context(), w.drv); !errors.Is(err, store.ErrNoLog) {
		t.Error("half a log was kept")
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// TestUploadsInConstantMemory sends much more than may be kept.
func TestUploadsInConstantMemory(t *testing.T) {
	const size = 256 << 20
	w := newWorld(t)
	h := &hashing{world: w}
	c := client(t, server(t, Session{Store: h, Trusted: true}), ClientOptions{})
	info := w.foreign(t.Context())
	before := heap()
	if err := c.Add(t.Context(), info, largeArchive(size), store.AddOptions{NoCheckSigs: true}); err != nil {
		t.Fatal(err)
	}
	if grown := int64(h.peak) - int64(before); grown > 16<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	if want, _ := io.Copy(io.Discard, largeArchive(size)); h.n != want {
		t.Errorf("%d bytes arrived", h.n)
	}
}

// largeArchive is the NAR of a file of so many zeros, a multiple of eight.
func largeArchive(size int64) io.Reader {
	var b []byte
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		b = appendText(b, s)
	}
	b = appendInts(b, uint64(size))
	return io.MultiReader(bytes.NewReader(b), io.LimitReader(zeros{}, size), bytes.NewReader(appendText(nil, ")")))
}

// hashing reads archives and keeps nothing.
type hashing struct {
	*world
	n    int64
	peak uint64
}

func (h *hashing) Add(_ context.Context, _ *store.PathInfo, r io.Reader, _ store.AddOptions) error {
	b := make([]byte, 1<<20)
	for i := 0; ; i++ {
		n, err := r.Read(b)
		h.n += int64(n)
		if i%1000 == 0 {
			h.peak = max(h.peak, heap())
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
