package daemon_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/overlayfs"
)

// parts are stores of which layers are made.
type parts struct {
	w      *town
	source *house   // everything, behind a stock daemon
	base   *house   // most of it
	thirds []*house // the same as base together; they overlap
	// additions are the paths of source that base lacks.
	additions []string
	// names of store paths of source, by what follows the hash.
	names map[string]string
	// answers of source, by release of the client.
	answers map[string]string
}

func newParts(t *testing.T) *parts {
	t.Helper()
	w := newTown(t)
	p := &parts{w: w, source: w.source(t).stock(t), base: w.house(t, "base", "2.34"), names: map[string]string{}, answers: map[string]string{}}
	p.additions = strings.Fields(p.source.sh(t, `nix-store -q --referrers-closure $(nix path-info --all |
		grep -- '-libssl3-\|-libreadline8-\|-tree$\|-script$\|-a$\|[.]drv$') | sort -u`))
	all := strings.Fields(p.source.nix.Run(t, "nix", "path-info", "--all"))
	for _, path := range all {
		_, name, _ := strings.Cut(path, "-")
		p.names[name] = path // of the content-addressed copies of some, any
	}
	below := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(p.additions, s) })
	for i := range 3 {
		third := w.house(t, fmt.Sprint("third", i), "2.34")
		p.thirds = append(p.thirds, third)
		p.copy(t, p.source, third, below[i*len(below)/3:(i+1)*len(below)/3])
	}
	p.copy(t, p.source, p.base, below)
	return p
}

// copy copies closures between stores by stock Nix.
func (p *parts) copy(t *testing.T, from, to *house, paths []string) {
	t.Helper()
	args := []string{"copy", "--quiet", "--from", from.dir, "--to", to.dir}
	p.source.nix.Run(t, "nix", append(args, paths...)...)
}

// lower is a lower store as its user names it.
type lower struct{ uri, dir string }

func localLower(h *house, settings string) lower {
	return lower{"local?root=" + h.dir + settings, h.store()}
}

// lowerKind is a way to have the paths of base below.
type lowerKind struct {
	name string
	make func(t *testing.T, p *parts) []lower
}

// lowerKinds are those that every user can have.
var lowerKinds = []lowerKind{
	{"local", func(_ *testing.T, p *parts) []lower { return []lower{localLower(p.base, "")} }},
	{"read-only", func(_ *testing.T, p *parts) []lower { return []lower{localLower(p.base, "&read-only=true")} }},
	{"stock daemon", func(t *testing.T, p *parts) []lower {
		return []lower{{p.base.stock(t).uri(), p.base.store()}}
	}},
	{"strata daemon", func(t *testing.T, p *parts) []lower {
		return []lower{{p.base.strata(t).uri(), p.base.store()}}
	}},
	{"overlay", overlayLower},
	{"three", func(_ *testing.T, p *parts) (ls []lower) {
		for _, h := range p.thirds {
			ls = append(ls, localLower(h, "&read-only=true"))
		}
		return ls
	}},
}

// imageLower is base as an EROFS image, with its database inside.
func imageLower(t *testing.T, p *parts) []lower {
	mkfs := testenv.EROFSMount(t)
	file, root := p.w.dir+"/base.erofs", p.w.dir+"/image"
	if out, err := exec.Command(mkfs, "--quiet", file, p.base.dir).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v\n%s", err, out)
	}
	show(t, file, root)
	return []lower{{"local?root=" + root + "&read-only=true", root + "/nix/store"}}
}

// overlayLower is itself layered: one third below, the others in its upper.
func overlayLower(t *testing.T, p *parts) []lower {
	inner := p.layered(t, "inner", []lower{localLower(p.thirds[0], "&read-only=true")})
	for _, h := range p.thirds[1:] {
		inner.sh(t, `strata copy --quiet --all --from $1 --to "$2"`, h.dir, inner.uri)
	}
	return []lower{{inner.uri, inner.store()}}
}

// layered is a layered store, mounted.
type layered struct {
	*house
	uri string
}

// layered makes one. Its merged directory is the store directory of the house.
func (p *parts) layered(t *testing.T, name string, lowers []lower) *layered {
	t.Helper()
	h := p.w.emptyHouse(t, name, "2.34")
	l := &layered{house: h}
	o := overlayfs.Options{Upper: l.upper(), Work: h.dir + "/work", Target: h.store()}
	l.uri = "local-overlay://?root=" + h.dir + "&upper-layer=" + l.upper()
	for _, low := range lowers {
		o.Lowers = append(o.Lowers, low.dir)
		l.uri += "&lower-store=" + url.QueryEscape(low.uri)
	}
	for _, dir := range []string{o.Upper, o.Work, o.Target} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range p.inBoth() {
		if out, err := exec.Command("cp", "-a", p.base.dir+path, o.Upper).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	m, err := overlayfs.Mount(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.WithoutCancel(t.Context()), overlayfs.UnmountOptions{}); err != nil {
			t.Errorf("something holds on to the merged directory: %v", err)
		}
	})
	return l
}

func (l *layered) upper() string { return l.dir + "/upper" }

// objects lists what is in the upper layer.
func (l *layered) objects(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(l.upper())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".links" {
			names = append(names, "/nix/store/"+e.Name())
		}
	}
	return names
}

// serve starts our daemon on it.
func (l *layered) serve(t *testing.T) {
	t.Helper()
	l.socket = l.dir + "/socket"
	testenv.Start(t, l.nix.Command(context.Background(), "strata", "daemon", "--store", l.uri, "--socket", l.socket)).WaitSocket(l.socket)
}

// client is a stock client of the daemon, in the same house.
func (l *layered) client(t *testing.T, p *parts, version string) *house {
	t.Helper()
	h := p.w.enter(t, l.dir, version)
	h.nix = h.nix.WithRemote(l.socket)
	return h
}
