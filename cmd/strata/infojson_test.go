package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"testing"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// infoJSON is what a member is, in the words of package json.
type infoJSON struct {
	CA               *string           `json:"ca"`
	ClosureSize      *uint64           `json:"closureSize,omitempty"`
	Deriver          *string           `json:"deriver"`
	NarHash          string            `json:"narHash"`
	NarSize          uint64            `json:"narSize"`
	References       []string          `json:"references"`
	RegistrationTime *int64            `json:"registrationTime"`
	Signatures       []store.Signature `json:"signatures"`
	StoreDir         storepath.Dir     `json:"storeDir"`
	Ultimate         bool              `json:"ultimate"`
	Version          int               `json:"version"`
}

func infosToPrint(t *testing.T) []*store.PathInfo {
	path := func(name string) storepath.Path {
		p, err := storepath.FromParts(make([]byte, 20), name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ca, err := storepath.ParseContentAddress("fixed:r:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s")
	if err != nil {
		t.Fatal(err)
	}
	h := nixhash.Of(nixhash.SHA256, "x")
	return []*store.PathInfo{
		{Path: path("plain"), NarHash: h},
		{
			Path: path("all+._?=-A0"), Deriver: path("d.drv"), NarHash: h, NarSize: 1<<64 - 1, CA: ca, Ultimate: true, Registered: 1700000000,
			References: []storepath.Path{path("a"), path("b")},
			Signatures: []store.Signature{"k-1:abc+/=", "strange \"\\<>&\n\x00\x7f é \xff:1"},
		},
	}
}

func TestInfosAreTheJSONOfPackageJSON(t *testing.T) {
	for _, dir := range []storepath.Dir{storepath.DefaultDir, "/a \"strange\"\\<dir>é"} {
		want, sizes := map[string]*infoJSON{dir.Print(infosToPrint(t)[0].Path) + "-absent": nil}, map[storepath.Path]uint64{}
		var got bytes.Buffer
		out := newOutput(&got)
		pr := &jsonInfos{out: out, dir: dir, closures: sizes}
		for i, info := range infosToPrint(t) {
			j := &infoJSON{
				NarHash: info.NarHash.Text(nixhash.SRI), NarSize: info.NarSize, References: dir.PrintAll(info.References),
				Signatures: append([]store.Signature{}, info.Signatures...), StoreDir: dir, Ultimate: info.Ultimate, Version: 1,
			}
			if !info.CA.IsZero() {
				ca, deriver, size := info.CA.String(), dir.Print(info.Deriver), uint64(i)
				j.CA, j.Deriver, j.RegistrationTime, j.ClosureSize = &ca, &deriver, &info.Registered, &size
				sizes[info.Path] = size
			}
			want[dir.Print(info.Path)] = j
			if err := pr.print(info.Path, info); err != nil {
				t.Fatal(err)
			}
		}
		absent, err := storepath.ParseBase(infosToPrint(t)[0].Path.Base() + "-absent")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(pr.print(absent, nil), pr.end(), out.flush()); err != nil {
			t.Fatal(err)
		}
		if err := sameMembers(got.Bytes(), want); err != nil {
			t.Errorf("%v in\n%s", err, got.String())
		}
	}
}

// sameMembers compares members byte for byte, in whatever order they come.
func sameMembers(got []byte, want map[string]*infoJSON) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(got, &members); err != nil {
		return err
	}
	if len(members) != len(want) {
		return errors.New("another number of members")
	}
	for name, w := range want {
		text, err := json.Marshal(w)
		if err != nil {
			return err
		}
		if !bytes.Equal(members[name], text) {
			return errors.New(name + " is not " + string(text))
		}
	}
	return nil
}

// listOf lists n infos, then an error if there is one, and says when it has ended.
type listOf struct {
	n     int
	err   error
	info  *store.PathInfo
	ended chan struct{}
}

func (l listOf) AllPathInfos(ctx context.Context) iter.Seq2[*store.PathInfo, error] {
	return func(yield func(*store.PathInfo, error) bool) {
		defer close(l.ended)
		for range l.n {
			if ctx.Err() != nil || !yield(l.info, nil) {
				return
			}
		}
		if l.err != nil {
			yield(nil, l.err)
		}
	}
}

func TestStreamOfInfosEndsWithItsReasonAndItsReader(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		n      int
		err    error
		closed bool // the reader of the output is gone
		cancel bool
		want   error
		lines  int
	}{
		"empty":     {n: 0},
		"few":       {n: 3},
		"a batch":   {n: streamBatch},
		"many":      {n: 3*streamBatch + 1},
		"broken":    {n: streamBatch + 1, err: broken, want: broken},
		"closed":    {n: 100 * streamBatch, closed: true, want: errOutputClosed},
		"cancelled": {n: 3 * streamBatch, cancel: true, want: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			l := listOf{n: c.n, err: c.err, info: infosToPrint(t)[1], ended: make(chan struct{})}
			var got bytes.Buffer
			out := newOutput(&got)
			if c.closed {
				out = newOutput(gone{})
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.cancel {
				cancel()
			}
			if err := streamInfos(ctx, out, storepath.DefaultDir, l); !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			<-l.ended // or it waits for ever
			if c.want != nil {
				return
			}
			if err := out.flush(); err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(got.Bytes(), []byte(`"version":1}`)); n != c.n || !json.Valid(got.Bytes()) {
				t.Errorf("%d infos", n)
			}
		})
	}
}

// gone is a writer that nobody reads.
type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errOutputClosed }

func BenchmarkInfosAsJSON(b *testing.B) {
	h := nixhash.Of(nixhash.SHA256, "x")
	p, err := storepath.FromParts(make([]byte, 20), "some-name-1.2.3")
	if err != nil {
		b.Fatal(err)
	}
	info := &store.PathInfo{Path: p, Deriver: p, NarHash: h, NarSize: 12345, Registered: 1700000000, References: []storepath.Path{p, p, p, p, p}}
	pr := &jsonInfos{out: newOutput(io.Discard), dir: storepath.DefaultDir}
	b.ReportAllocs()
	for b.Loop() {
		if err := pr.print(info.Path, info); err != nil {
			b.Fatal(err)
		}
	}
}
