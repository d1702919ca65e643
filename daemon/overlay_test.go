package daemon_test

import (
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// The tests of this file serve layered stores, over real mounts and lowers of
// every kind, to stock clients.

func TestLayersOfEveryKind(t *testing.T) {
	testenv.Long(t)
	if testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		testLayers(t, lowerKinds...)
	}
}

func TestLayersOverImage(t *testing.T) {
	testenv.Long(t)
	testenv.EROFSMount(t)
	if testenv.Isolate(t, testenv.Namespace{PIDs: true}) {
		testLayers(t, lowerKind{"image", imageLower})
	}
}

// testLayers puts additions over lowers and asks stock clients about the whole.
func testLayers(t *testing.T, kinds ...lowerKind) {
	t.Helper()
	p := newParts(t)
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			l := p.layered(t, strings.ReplaceAll("over "+kind.name, " ", "-"), kind.make(t, p))
			p.wrongMounts(t, l)
			l.serve(t)
			p.readBelow(t, l)
			p.add(t, l)
			for _, version := range testenv.NixVersions() {
				p.ask(t, l.client(t, p, version))
			}
			p.openByStock(t, l)
			p.duplicates(t, l)
			p.collect(t, l)
		})
	}
}

// Store paths of which the tests make use, by name.
const (
	bash   = "bash-5.2.37-2+b10" // below, with all that it refers to
	libc   = "libc6-2.36-9+deb12u14"
	sqlite = "sqlite3-3.40.1-2+deb12u2" // above; refers to libc and others below
)

// inBoth are below and, not known to the database at first, in the upper layer.
var inBoth = []string{"tzdata-2026b-0+deb12u1", "ncurses-base-6.4-4"}

// wrongMounts tries to serve what is not mounted like that: the daemon says what it
// expected and what it found, and does not start.
func (p *parts) wrongMounts(t *testing.T, l *layered) {
	t.Helper()
	other := p.w.dir + "/nothing/nix/store"
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(strings.SplitAfter(l.uri, "lower-store=")[1], "&")
	for what, uri := range map[string]string{
		"the lower directories differ":        strings.Replace(l.uri, first, url.QueryEscape("local?real="+other+"&root="+p.base.dir), 1),
		"the upper directory differs":         strings.Replace(l.uri, "upper-layer="+l.upper(), "upper-layer="+other, 1),
		"nothing is mounted there":            strings.Replace(l.uri, "root="+l.dir, "root="+p.w.dir+"/nothing", 1),
		"\"" + other + "\" is missing or not": l.uri + "&lower-store=" + url.QueryEscape("local?real="+other+"&root="+p.base.dir),
	} {
		says := l.nix.RunFails(t, "strata", "daemon", "--store", uri, "--socket", l.dir+"/socket")
		if !strings.Contains(says, "mounted incorrectly") || !strings.Contains(says, what) {
			t.Errorf("not told that %s: %s", what, says)
		}
	}
	if got := l.objects(t); len(got) != len(inBoth) {
		t.Errorf("a daemon that did not start wrote to the upper layer: %q", got)
	}
}

// readBelow asks about what only a lower has, which writes nothing.
func (p *parts) readBelow(t *testing.T, l *layered) {
	t.Helper()
	c := l.client(t, p, "2.34")
	got := c.sh(t, `nix path-info -r $1; nix-store --check-validity $1; cat $1/usr/bin/bash | cksum`, p.names[bash])
	if want := p.source.sh(t, `nix path-info -r $1; cat $1/usr/bin/bash | cksum`, p.names[bash]); got != want {
		t.Errorf("below:\n%s\nwant\n%s", got, want)
	}
	if got := l.rows(t); len(got) > 0 {
		t.Errorf("asking wrote to the upper's database: %q", got)
	}
	if got := l.objects(t); len(got) != len(inBoth) {
		t.Errorf("asking wrote to the upper layer: %q", got)
	}
}

// rows lists the upper's database as stock Nix reads it.
func (l *layered) rows(t *testing.T) []string {
	t.Helper()
	return strings.Fields(l.nix.Run(t, "nix", "path-info", "--all", "--store", "local"))
}

// add copies everything that source has into the layered store.
func (p *parts) add(t *testing.T, l *layered) {
	t.Helper()
	third := len(p.additions) / 3
	for i, version := range testenv.NixVersions() {
		paths := p.additions[i*third:]
		if version == "2.8" { // to which a derivation means its outputs
			paths = slices.DeleteFunc(slices.Clone(paths[:third]), func(s string) bool { return strings.HasSuffix(s, ".drv") })
		}
		c := l.client(t, p, version)
		c.nix.Run(t, "nix", append([]string{"copy", "--quiet", "--from", p.source.uri()}, paths...)...)
	}
	c := l.client(t, p, "2.34")
	c.nix.Run(t, "nix", append([]string{"copy", "--quiet", "--from", p.source.uri()}, p.additions...)...)
	want := slices.Sorted(slices.Values(append(p.inBoth(), p.additions...)))
	if got := l.objects(t); !slices.Equal(got, want) {
		t.Errorf("the upper layer has\n%q, want\n%q", got, want)
	}
	closure := strings.Fields(p.source.sh(t, `nix path-info -r "$@" | sort -u`, p.additions...))
	got := l.rows(t)
	slices.Sort(got)
	if !slices.Equal(got, closure) {
		t.Errorf("rows of the upper:\n%q, want\n%q", got, closure)
	}
}

// ask compares answers about the layers with those about a plain store of the
// same paths.
func (p *parts) ask(t *testing.T, c *house) {
	t.Helper()
	const questions = `
		nix-store -qR $top; nix-store -q --references $top $libc; nix-store -q --tree $top
		nix-store -q --referrers $libc | sort; nix-store -q --referrers-closure $libc | sort
		nix-store -q --hash $top $libc; nix-store -q --size $top $libc; nix-store -q --deriver $top $libc
		nix path-info -rsSh $top | sort; nix path-info -r --sigs $top | sort
		nix path-info -r --json $top | sed 's/"registrationTime":[0-9]*//g'
		nix-store --verify-path $top $libc; nix-store --dump $libc | cksum; nix-store --export $(nix-store -qR $top) | cksum
		nix store ls -lR $libc; nix store cat $libc/usr/share/doc/libc6/copyright | cksum; nix why-depends $top $libc
		h=${libc#/nix/store/}; nix store path-from-hash-part ${h%%-*} 2>/dev/null || true # not in 2.8
		h=${top#/nix/store/}; nix store path-from-hash-part ${h%%-*} 2>/dev/null || true
		find $top $libc /nix/store/*-tree -printf '%p %y %m %T@ %l\n' | sort | cksum`
	script := "top=" + p.names[sqlite] + " libc=" + p.names[libc] + "\n" + questions
	version := c.nix.Version
	if p.answers[version] == "" {
		plain := p.w.enter(t, p.source.dir, version)
		plain.nix = plain.nix.WithRemote(p.source.socket)
		p.answers[version] = plain.sh(t, script)
	}
	if got := c.sh(t, script); got != p.answers[version] {
		t.Errorf("with Nix %s unlike a plain store the layers %s", version, firstDifference(got, p.answers[version]))
	}
}

// openByStock opens what strata wrote with stock Nix: as the same layered store,
// with its check of our mount, and as a plain one.
func (p *parts) openByStock(t *testing.T, l *layered) {
	t.Helper()
	l.nix.Run(t, "nix-store", "--verify", "--check-contents", "--store", "local")
	if strings.Count(l.uri, "lower-store=") > 1 {
		return // it knows one lower only
	}
	const features = "nix-command local-overlay-store read-only-local-store"
	got := l.sh(t, `nix --extra-experimental-features "$1" path-info -r --store "$2" $3 $4 | sort`, features, l.uri, p.names[sqlite], p.names[bash])
	if want := p.source.sh(t, `nix path-info -r $1 $2 | sort`, p.names[sqlite], p.names[bash]); got != want {
		t.Errorf("stock Nix reads\n%s\nwant\n%s", got, want)
	}
}

// firstDifference tells where two texts part.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("say %q instead of %q", g[i], w[i])
		}
	}
	return fmt.Sprintf("say %d lines instead of %d", len(g), len(w))
}

func (p *parts) inBoth() (paths []string) {
	for _, name := range inBoth {
		paths = append(paths, p.names[name])
	}
	return paths
}

// duplicates takes objects out of the upper layer that a lower has too.
func (p *parts) duplicates(t *testing.T, l *layered) {
	t.Helper()
	l.sh(t, `base=$1; shift; nix-store --dump-db --store $base "$@" | nix-store --load-db`, append([]string{p.base.dir}, p.inBoth()...)...)
	c := l.client(t, p, "2.34")
	for i, command := range []string{"nix-store --delete $1 2>&1 | tail -n 1", "nix-store --optimise"} {
		path := p.names[inBoth[i]]
		upper := filepath.Join(l.upper(), filepath.Base(path))
		freed := blocks(t, upper)
		says := c.sh(t, command, path)
		if _, err := os.Lstat(upper); err == nil {
			t.Errorf("%s left %s", command, upper)
		}
		if i == 0 {
			deleted(t, says, 1, freed)
		}
		same(t, "what shows after "+command, treeOf(t, l.dir+path), treeOf(t, p.base.dir+path))
		c.nix.Run(t, "nix-store", "--verify-path", path)
	}
}

// collect collects garbage, with a root and without.
func (p *parts) collect(t *testing.T, l *layered) {
	t.Helper()
	c := l.client(t, p, "2.34")
	needs := strings.Fields(c.sh(t, `nix-store --realise $1 --add-root root >/dev/null; nix-store -qR $1`, p.names[sqlite]))
	for _, root := range []bool{true, false} {
		if !root {
			c.sh(t, "rm root")
			needs = nil
		}
		var keep []string
		dead, size := 0, int64(0)
		lost, kept := map[uint64]int64{}, map[uint64]int64{} // files are shared
		for _, path := range l.objects(t) {
			files := blocksOf(t, filepath.Join(l.upper(), filepath.Base(path)))
			if slices.Contains(needs, path) {
				keep = append(keep, path)
				maps.Copy(kept, files)
				continue
			}
			dead++
			maps.Copy(lost, files)
		}
		for inode, n := range lost {
			if _, ok := kept[inode]; !ok {
				size += n
			}
		}
		if dead == 0 || root && len(keep) == 0 {
			t.Errorf("nothing to test: %d dead, to keep %q", dead, keep)
		}
		deleted(t, c.sh(t, "nix-store --gc 2>&1 | tail -n 1"), dead, size)
		if got := l.objects(t); !slices.Equal(got, keep) {
			t.Errorf("after a collection the upper layer has %q, want %q", got, keep)
		}
		rows := l.rows(t)
		slices.Sort(rows)
		if want := slices.Sorted(slices.Values(needs)); !slices.Equal(rows, want) {
			t.Errorf("after a collection there are rows of %q, want %q", rows, want)
		}
	}
	same(t, "what a collection left below", treeOf(t, l.store()), treeOf(t, p.base.store()))
	c.sh(t, `nix-store --verify-path $(nix-store -qR $1)`, p.names[bash])
}

// blocks is what a tree has on disk, in bytes.
func blocks(t *testing.T, dir string) (n int64) {
	t.Helper()
	for _, size := range blocksOf(t, dir) {
		n += size
	}
	return n
}

// blocksOf are the bytes that each inode of a tree has on disk.
func blocksOf(t *testing.T, dir string) map[uint64]int64 {
	t.Helper()
	inodes := map[uint64]int64{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(path, &st)
		}
		inodes[st.Ino] = st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return inodes
}

// deleted checks the closing line of a collection.
func deleted(t *testing.T, says string, paths int, size int64) {
	t.Helper()
	unit, factor := "KiB", 1<<10
	if size >= 1<<20 {
		unit, factor = "MiB", 1<<20
	}
	want := fmt.Sprintf("%d store paths deleted, %.1f %s freed", paths, float64(size)/float64(factor), unit)
	if says != want {
		t.Errorf("%q, want %q", says, want)
	}
}
