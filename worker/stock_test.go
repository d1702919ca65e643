package worker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/internal/memstore"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// TestClientOfStockDaemon tries every method of Client on the daemons that
// others run.
func TestClientOfStockDaemon(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		nix.Run(t, "nix-store", "--init") // else the daemon takes itself for its store
		socket := nix.Daemon(t)
		var heard tale
		ctx := activity.With(t.Context(), &heard)
		c, err := NewClient(ctx, DialUnix(socket), ClientOptions{Options: &Options{Verbosity: activity.Chatty, MaxJobs: 1}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if !strings.HasPrefix(c.ServerVersion(), nix.Version+".") {
			t.Errorf("daemon calls itself %q", c.ServerVersion())
		}
		s := &stockTalk{T: t, ctx: ctx, c: c}
		s.add()
		s.query()
		s.build()
		s.keepAndCollect(filepath.Join(nix.Dir, "result"))
		if all := strings.Join(heard.lines, "\n"); !strings.Contains(all, "start 105 building ") || !strings.Contains(all, "result 101 [{a line of the log 0 true}]") {
			t.Errorf("activities of the build were not passed on:\n%s", all)
		}
		if out := nix.Run(t, "nix-store", "--verify", "--check-contents"); out != "" {
			t.Errorf("the store does not verify: %s", out)
		}
	})
}

type stockTalk struct {
	*testing.T
	ctx           context.Context
	c             *Client
	text, a, b, z *store.PathInfo
	archive       string
}

func (s *stockTalk) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *stockTalk) mustBe(err, kind error) {
	s.Helper()
	if !errors.Is(err, kind) {
		s.Errorf("error %v is not %v", err, kind)
	}
}

func (s *stockTalk) dump(name string, m storepath.Method, nar bool, contents string, refs ...storepath.Path) *store.PathInfo {
	s.Helper()
	info, err := s.c.AddDump(s.ctx, store.Dump{
		Name: name, Spec: storepath.Spec{Method: m, Algorithm: nixhash.SHA256},
		References: refs, Contents: strings.NewReader(contents), NAR: nar,
	}, store.AddOptions{})
	s.must(err)
	return info
}

// foreign describes an object with the contents of s.archive.
func (s *stockTalk) foreign(base string, refs ...storepath.Path) *store.PathInfo {
	p, err := storepath.ParseBase(base)
	s.must(err)
	return &store.PathInfo{Path: p, NarHash: nixhash.Of(nixhash.SHA256, s.archive), NarSize: uint64(len(s.archive)), References: refs}
}

func (s *stockTalk) add() {
	s.text = s.dump("text", storepath.Text, false, "text\n")
	flat := s.dump("flat", storepath.Flat, false, strings.Repeat("0123456789", 100_000))
	s.archive = narOf(s, s.c, flat.Path)
	if len(s.archive) != int(flat.NarSize) {
		s.Errorf("NAR has %d bytes", len(s.archive))
	}
	if again := s.dump("flat", storepath.Flat, true, s.archive); again.Path != flat.Path {
		s.Errorf("the NAR of the file makes %s, not %s", again.Path, flat.Path)
	}
	s.dump("tree", storepath.Recursive, true, s.archive, s.text.Path)

	trusted := store.AddOptions{NoCheckSigs: true}
	s.a = s.foreign("0c5b8vw40d1178xlpddw65q9gf1h2186-a", s.text.Path)
	s.must(s.c.Add(s.ctx, s.a, strings.NewReader(s.archive), trusted))
	s.b, s.z = s.foreign("1c5b8vw40d1178xlpddw65q9gf1h2186-b", s.a.Path), s.foreign("2c5b8vw40d1178xlpddw65q9gf1h2186-z")
	s.must(s.c.AddMultiple(s.ctx, &objects{[]*store.PathInfo{s.b, s.z}, []string{s.archive, s.archive}}, trusted))

	bad := s.foreign("3c5b8vw40d1178xlpddw65q9gf1h2186-bad")
	s.mustBe(s.c.Add(s.ctx, bad, strings.NewReader(s.archive), store.AddOptions{}), store.ErrNoSignature)
	bad.NarHash = nixhash.Of(nixhash.SHA256, "something else")
	s.mustBe(s.c.Add(s.ctx, bad, strings.NewReader(s.archive), trusted), store.ErrMismatch)
	// The first of many is refused while the others are being sent.
	many := &objects{slices.Repeat([]*store.PathInfo{bad}, 40), slices.Repeat([]string{s.archive}, 40)}
	s.mustBe(s.c.AddMultiple(s.ctx, many, trusted), store.ErrMismatch)
	s.must(s.c.AddSignatures(s.ctx, s.a.Path, []store.Signature{store.Signature("key:" + strings.Repeat("A", 86) + "==")}))
}

func (s *stockTalk) query() {
	missing := s.foreign("4c5b8vw40d1178xlpddw65q9gf1h2186-missing").Path
	var asked []storepath.Path
	for range 500 {
		asked = append(asked, s.b.Path, missing, s.a.Path)
	}
	infos, err := s.c.PathInfos(s.ctx, asked)
	s.must(err)
	for i, info := range infos {
		if (info == nil) != (asked[i] == missing) || info != nil && (info.Path != asked[i] || len(info.References) != 1) {
			s.Fatalf("answer %d is %+v", i, info)
		}
	}
	if len(infos[2].Signatures) != 1 {
		s.Errorf("signatures of a: %v", infos[2].Signatures)
	}
	valid, err := s.c.ValidPaths(s.ctx, asked[:3])
	s.must(err)
	if !slices.Equal(valid, []storepath.Path{s.b.Path, s.a.Path}) {
		s.Errorf("valid are %v", valid)
	}
	referrers, err := s.c.Referrers(s.ctx, []storepath.Path{s.a.Path, s.b.Path})
	s.must(err)
	if !slices.Equal(referrers[0], []storepath.Path{s.b.Path}) || len(referrers[1]) > 0 {
		s.Errorf("referrers are %v", referrers)
	}
	n := 0
	for p, err := range s.c.AllPaths(s.ctx) {
		s.must(err)
		if slices.Contains(asked, p) {
			n++
		}
	}
	if n != 2 {
		s.Errorf("list of all has %d of those asked", n)
	}
	p, err := s.c.PathFromHashPart(s.ctx, s.a.Path.HashPart())
	s.must(err)
	none, err := s.c.PathFromHashPart(s.ctx, missing.HashPart())
	s.must(err)
	if p != s.a.Path || !none.IsZero() {
		s.Errorf("hash parts lead to %s and %s", p, none)
	}
	if err := s.c.NarFromPath(s.ctx, missing, io.Discard); err == nil {
		s.Error("NAR of a path that is not there")
	}
	found, err := s.c.SubstitutablePaths(s.ctx, asked[:3])
	s.must(err)
	subs, err := s.c.Substitutables(s.ctx, asked[1:2], make([]storepath.ContentAddress, 1))
	s.must(err)
	if len(found) > 0 || subs[0] != nil {
		s.Errorf("substitutable: %v, %v", found, subs)
	}
	damaged, err := s.c.Verify(s.ctx, store.VerifyOptions{CheckContents: true})
	s.must(err)
	if damaged {
		s.Error("the daemon finds damage")
	}
	s.must(s.c.Optimise(s.ctx))
}

func (s *stockTalk) build() {
	out := storepath.ContentAddress{Method: storepath.Flat, Hash: nixhash.Of(nixhash.SHA256, "built\n")}
	d := derivation.Derivation{Basic: derivation.Basic{
		Name: "made", Platform: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-c", "echo a line of the log; echo built > $out"},
		Outputs: map[string]derivation.Output{"out": {Kind: derivation.Fixed, CA: out}},
	}}
	paths, err := d.OutputPaths(s.c.Dir())
	s.must(err)
	d.Env = map[string]string{"out": s.c.Dir().Print(paths["out"]), "name": "made", "builder": d.Builder, "system": d.Platform}
	text, err := d.ATerm(s.c.Dir())
	s.must(err)
	drv := s.dump("made.drv", storepath.Text, false, string(text)).Path
	targets := []derivation.DerivedPath{{Path: s.a.Path}, {Path: drv, Outputs: []string{derivation.AllOutputs}}}

	m, err := s.c.QueryMissing(s.ctx, targets)
	s.must(err)
	if !slices.Equal(m.WillBuild, []storepath.Path{drv}) || len(m.Unknown) > 0 {
		s.Errorf("missing is %+v", m)
	}
	results, err := s.c.BuildPaths(s.ctx, targets, store.BuildNormal)
	s.must(err)
	if results[0].Status != store.AlreadyValid || results[1].Status != store.Built || results[1].Outputs["out"].OutPath != paths["out"] {
		s.Errorf("results are %+v, %+v", results[0], results[1])
	}
	r, err := s.c.BuildDerivation(s.ctx, drv, &d.Basic, store.BuildNormal)
	s.must(err)
	if r.Status != store.AlreadyValid {
		s.Errorf("second build gives %+v", r)
	}
	derivers, err := s.c.ValidDerivers(s.ctx, paths["out"])
	s.must(err)
	outputs, err := s.c.DerivationOutputs(s.ctx, drv)
	s.must(err)
	if !slices.Equal(derivers, []storepath.Path{drv}) || outputs["out"] != paths["out"] {
		s.Errorf("derivers %v, outputs %v", derivers, outputs)
	}
	s.must(s.c.EnsurePath(s.ctx, s.a.Path))
	if err := s.c.EnsurePath(s.ctx, s.foreign("4c5b8vw40d1178xlpddw65q9gf1h2186-missing").Path); err == nil {
		s.Error("ensured what cannot be had")
	}
	s.must(s.c.AddBuildLog(s.ctx, drv, strings.NewReader("log\n")))
}

func (s *stockTalk) keepAndCollect(link string) {
	roots := s.c.NewTempRoots()
	s.must(roots.Add(s.ctx, []storepath.Path{s.z.Path, s.text.Path}))
	got, err := s.c.AddPermRoot(s.ctx, s.b.Path, link)
	s.must(err)
	target, err := os.Readlink(got)
	s.must(err)
	if target != s.c.Dir().Print(s.b.Path) {
		s.Errorf("root points to %s", target)
	}
	all, err := s.c.FindRoots(s.ctx, false)
	s.must(err)
	if !slices.Contains(all[s.b.Path], link) || len(all[s.z.Path]) == 0 {
		s.Errorf("roots are %v", all)
	}
	specific := store.GCOptions{Action: store.DeleteSpecific, Paths: []storepath.Path{s.z.Path}, MaxFreed: store.NoLimit}
	_, err = s.c.CollectGarbage(s.ctx, specific)
	s.mustBe(err, store.ErrAlive)
	s.must(roots.Close())
	s.must(s.c.Close()) // ends what the daemon keeps for the connections

	s.c, err = NewClient(s.ctx, s.c.dial, ClientOptions{})
	s.must(err)
	defer s.c.Close()
	// The processes of the daemon that served the connections end in their own time.
	for {
		all, err := s.c.FindRoots(s.ctx, false)
		s.must(err)
		if len(all[s.z.Path]) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	r, err := s.c.CollectGarbage(s.ctx, store.GCOptions{Action: store.DeleteDead, MaxFreed: store.NoLimit})
	s.must(err)
	if !slices.Contains(r.Paths, s.c.Dir().Print(s.z.Path)) || r.BytesFreed < s.z.NarSize {
		s.Errorf("collected %v, %d bytes", r.Paths, r.BytesFreed)
	}
	valid, err := s.c.ValidPaths(s.ctx, []storepath.Path{s.a.Path, s.b.Path, s.z.Path})
	s.must(err)
	if !slices.Equal(valid, []storepath.Path{s.a.Path, s.b.Path}) {
		s.Errorf("valid afterwards are %v", valid)
	}
}

// listen serves a store on a socket that nix reaches.
func listen(t *testing.T, nix *testenv.NixEnv, name string, o Session) *testenv.NixEnv {
	socket := filepath.Join(nix.Dir, name)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	o.Version = "2.34.8 test"
	var running sync.WaitGroup
	running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer nc.Close()
				if err := Serve(context.Background(), nc, o); err != nil {
					t.Errorf("session: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return nix.WithRemote(socket)
}

// TestStockClients has stock commands talk to Serve. The store is nowhere on
// disk, so commands that look there are not among them.
func TestStockClients(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		st := memstore.New(storepath.DefaultDir)
		remote := listen(t, nix, "trusted", Session{Store: st, Trusted: true})
		nix.WriteFile(t, "tree/a", "hello\n")
		nix.WriteFile(t, "tree/sub/large", strings.Repeat("0123456789", 300_000))
		nix.WriteFile(t, "x.nix", `derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "cat ${./tree}/a > $out" ]; }`)

		tree := remote.Run(t, "nix-store", "--add", "tree")
		if local := nix.Run(t, "nix-store", "--add", "tree"); local != tree {
			t.Errorf("stock Nix adds as %s what became %s", local, tree)
		}
		for _, q := range []string{"--hash", "--size", "--requisites", "--references", "--referrers", "--deriver"} {
			if got, want := remote.Run(t, "nix-store", "-q", q, tree), nix.Run(t, "nix-store", "-q", q, tree); got != want {
				t.Errorf("%s is %q, in a stock store %q", q, got, want)
			}
		}
		if got := remote.Run(t, "nix-store", "-r", tree); got != tree {
			t.Errorf("realised as %s", got)
		}
		if got := remote.Run(t, "nix", "build", "--no-link", "--json", tree); !strings.Contains(got, tree) {
			t.Errorf("built as %s", got)
		}
		drv := remote.Run(t, "nix-instantiate", "x.nix")
		if local := nix.Run(t, "nix-instantiate", "x.nix"); local != drv {
			t.Errorf("stock Nix instantiates %s, we %s", local, drv)
		}
		if got, want := remote.Run(t, "nix-store", "-qR", drv), nix.Run(t, "nix-store", "-qR", drv); got != want {
			t.Errorf("closure is %s, in a stock store %s", got, want)
		}
		if got := remote.RunFails(t, "nix-store", "-r", drv); !strings.Contains(got, "not supported by store") {
			t.Errorf("a build says %s", got)
		}
		if got := remote.RunFails(t, "nix-store", "-q", "--hash", "/nix/store/00000000000000000000000000000000-x"); !strings.Contains(got, "is not valid") {
			t.Errorf("a missing path gives %s", got)
		}
		remote.Run(t, "nix-store", "--verify", "--check-contents")
		if got := remote.Run(t, "nix-store", "--gc", "--print-dead"); !strings.Contains(got, drv) {
			t.Errorf("dead are %s", got)
		}
		remote.Run(t, "nix-store", "--gc")
		if got := remote.Run(t, "nix", "path-info", "--all"); got != "" {
			t.Errorf("left after a collection: %s", got)
		}

		// From a chroot store, all at once.
		chroot := filepath.Join(nix.Dir, "chroot")
		nix.Run(t, "nix", "copy", "--derivation", "--no-check-sigs", "--to", chroot, drv)
		remote.Run(t, "nix", "copy", "--derivation", "--no-check-sigs", "--from", chroot, drv)
		if got, want := remote.Run(t, "nix", "path-info", "--derivation", "-r", drv), nix.Run(t, "nix", "path-info", "--derivation", "-r", drv); got != want {
			t.Errorf("copied %s instead of %s", got, want)
		}
		if got, want := remote.Run(t, "nix-store", "-q", "--hash", tree), nix.Run(t, "nix-store", "-q", "--hash", tree); got != want {
			t.Errorf("copied with hash %s, not %s", got, want)
		}
	})
}

// TestStockClientsWithoutTrust is about what a server refuses.
func TestStockClientsWithoutTrust(t *testing.T) {
	testenv.EachNix(t, func(t *testing.T, nix *testenv.NixEnv) {
		st := memstore.New(storepath.DefaultDir)
		st.Trusts = func(*store.PathInfo) bool { return false }
		remote := listen(t, nix, "untrusted", Session{Store: st})
		nix.WriteFile(t, "a", "a\n")
		nix.WriteFile(t, "x.nix", `derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo x > $out" ]; }`)
		out := nix.Run(t, "nix-build", "--no-out-link", "x.nix")
		added := remote.Run(t, "nix-store", "--add", "a")

		if got := remote.RunFails(t, "nix", "copy", "--no-check-sigs", "--from", nix.Dir, out); !strings.Contains(got, "lacks a") {
			t.Errorf("an unsigned object: %s", got)
		}
		if got := remote.RunFails(t, "nix-store", "--verify", "--repair"); !strings.Contains(got, "you are not privileged to repair paths") {
			t.Errorf("a repair: %s", got)
		}
		if got := remote.RunFails(t, "nix-store", "-r", "--repair", added); !strings.Contains(got, "repairing is not allowed because you are not in 'trusted-users'") {
			t.Errorf("a repair by building: %s", got)
		}
		cmd := remote.Command(t.Context(), "nix-store", "--option", "system-features", "kvm", "-q", "--hash", added)
		said, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(said), "ignoring the client-specified setting 'system-features', because it is a restricted setting and you are not a trusted user") {
			t.Errorf("a restricted setting: %v, %s", err, said)
		}
	})
}
