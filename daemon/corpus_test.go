package daemon_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-nix/strata/internal/testenv"
)

// The tests of this file put the corpus, which nobody here wrote, through the
// daemon with every release of stock Nix, and compare what arrives with what
// stock Nix makes of the same input.

// source is a store with the corpus, content-addressed objects of most kinds,
// and signatures.
func (w *town) source(t *testing.T) *house {
	t.Helper()
	h := w.house(t, "source", "2.34")
	nix := h.nix
	dir, registration := testenv.Corpus(t)
	objects, err := os.ReadDir(dir + "/nix/store")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects { // one by one: others are made beside them
		show(t, filepath.Join(dir, "nix/store", o.Name()), filepath.Join(h.store(), o.Name()))
	}
	reg, err := os.ReadFile(registration)
	if err != nil {
		t.Fatal(err)
	}
	h.sh(t, "nix-store --load-db < $1", nix.WriteFile(t, "registration", string(reg)))
	for _, name := range []string{"corpus-1", "other-1"} {
		secret, _ := testKey(name)
		nix.WriteFile(t, name, secret)
	}
	h.sh(t, `
		mkdir tree; echo text > tree/a; ln -s ../a tree/l
		for h in md5 sha1 sha256 sha512; do nix-store --add-fixed $h tree/a; nix-store --add-fixed --recursive $h tree; done
		echo 'derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ (builtins.toFile "script" "echo") ]; outputs = [ "out" "dev" ]; }' > x.nix
		nix-instantiate x.nix
		nix store make-content-addressed $(nix path-info --all | grep -- '-libgcc-s1-')
		nix store sign --all -k $1/corpus-1
		nix store sign -k $1/other-1 $(nix path-info --all | grep '/[0-9]')`, nix.Dir)
	return h
}

func (h *house) cache(who string) string { return h.dir + "/cache-" + who }

func (h *house) cacheURI(who string) string {
	return "file://" + h.cache(who) + "?compression=none"
}

// What stock clients copy through our daemon, in and out, is what they get with
// a stock daemon.
func TestCorpusThroughDaemon(t *testing.T) {
	testenv.Long(t)
	if !testenv.Isolate(t, testenv.Namespace{}) {
		return
	}
	w := newTown(t)
	src := w.source(t).stock(t)
	stock := w.house(t, "stock", "2.34").stock(t)
	stock.nix.Run(t, "nix", "copy", "--quiet", "--all", "--from", src.uri(), "--to", stock.uri())
	want := stock.content(t)
	same(t, "stock Nix itself", want.infos, pathInfos(t, src.nix, "--all"))

	byStrata := w.house(t, "by-strata", "2.34").strata(t)
	throughStrata(t, w, src, byStrata, want)
	for _, version := range testenv.NixVersions() {
		t.Run(version, func(t *testing.T) {
			client := w.house(t, "client-"+version, version)
			ours := w.house(t, "ours-"+version, "2.34").strata(t)

			// In: from a stock daemon.
			client.nix.Run(t, "nix", "copy", "--quiet", "--all", "--from", src.uri(), "--to", ours.uri())
			ours.content(t).compare(t, "copied in", want)
			same(t, "asked for", pathInfos(t, client.nix, "--store", ours.uri(), "--all"), pathInfos(t, client.nix, "--store", stock.uri(), "--all"))
			ours.nix.Run(t, "nix-store", "--verify", "--check-contents")

			// Out: to the client's own store.
			client.nix.Run(t, "nix", "copy", "--quiet", "--all", "--from", ours.uri())
			same(t, "copied out: trees", treeOf(t, client.store()), want.tree)

			// Out and in again, by way of a cache in files.
			client.nix.Run(t, "nix", "copy", "--quiet", "--all", "--from", stock.uri(), "--to", client.cacheURI("stock"))
			client.nix.Run(t, "nix", "copy", "--quiet", "--all", "--from", ours.uri(), "--to", client.cacheURI("strata"))
			same(t, "a cache", filesOf(t, client.cache("strata")), filesOf(t, client.cache("stock")))
			back := w.house(t, "back-"+version, "2.34").strata(t)
			copyBack(t, client, back, want)
		})
	}
	verifyDamage(t, byStrata, stock.strata(t))
}

// copyBack copies from a cache, which must be done by naming the paths: nobody
// could list them. A derivation's name means its outputs to Nix 2.8.
func copyBack(t *testing.T, client, back *house, want content) {
	t.Helper()
	args := []string{"copy", "--quiet", "--from", client.cacheURI("strata"), "--to", back.uri()}
	for path := range want.infos {
		if !strings.HasSuffix(path, ".drv") {
			args = append(args, path)
		}
	}
	client.nix.Run(t, "nix", args...)
	got := back.content(t)
	same(t, "from a cache: path infos", got.infos, without(want.infos, ".drv"))
	same(t, "from a cache: trees", got.tree, without(want.tree, ".drv"))
}

// without is a map without the keys that have a suffix.
func without(m map[string]string, suffix string) map[string]string {
	m = maps.Clone(m)
	maps.DeleteFunc(m, func(k, _ string) bool { return strings.HasSuffix(k, suffix) })
	return m
}

// throughStrata moves the corpus with our own commands.
func throughStrata(t *testing.T, w *town, src, byStrata *house, want content) {
	t.Run("copy", func(t *testing.T) {
		to := w.house(t, "copied", "2.34")
		to.sh(t, "strata copy --quiet --all --from $1 --to local", src.uri())
		to.content(t).compare(t, "from a stock daemon", want)
		to.stock(t)
		byStrata.sh(t, "strata copy --quiet --all --from $1 --to $2", to.uri(), byStrata.uri())
		byStrata.content(t).compare(t, "to our daemon", want)
		byStrata.nix.Run(t, "nix-store", "--verify", "--check-contents")
	})
	t.Run("export and import", func(t *testing.T) {
		ours, stock := w.house(t, "exported", "2.34"), w.house(t, "exported-stock", "2.34")
		src.sh(t, "nix-store --export $(nix path-info --all) > $1/export", w.dir)
		stock.sh(t, "nix-store --import --option require-sigs false < $1/export", w.dir)
		ours.sh(t, "strata import < $1/export", w.dir)
		ours.content(t).compare(t, "imported", stock.content(t))
		again := w.house(t, "exported-again", "2.34")
		again.sh(t, "strata export --store 'local?root='$1/exported $(nix path-info --store $1/exported --all) | nix-store --import --option require-sigs false", w.dir)
		again.content(t).compare(t, "what we exported", stock.content(t))
	})
	t.Run("dump and restore", func(t *testing.T) {
		h := w.house(t, "dumped", "2.34")
		h.sh(t, `
			for p in $(nix path-info --store $1/copied --all | grep "ncurses\|docutils\|libc6\|tree\|[.]drv\|-a$"); do
				strata dump --store local?root=$1/copied $p > o.nar
				nix-store --dump $1/copied$p > s.nar
				cmp o.nar s.nar
				strata restore o < o.nar
				nix-store --restore s < s.nar
				cmp <(find o -printf '%P %y %m %l\n' | sort) <(find s -printf '%P %y %m %l\n' | sort)
				diff -r --no-dereference o s
				chmod -R u+w o s; rm -r o s
			done`, w.dir)
	})
	t.Run("load-db and dump-db", func(t *testing.T) {
		h := w.house(t, "loaded", "2.34")
		h.sh(t, `
			nix-store --dump-db --store $1/copied | sort > want
			strata dump-db --store local?root=$1/copied | sort > got; cmp got want
			strata dump-db --store unix://$1/by-strata/strata.sock | sort > got; cmp got want
			mkdir -p again/nix/store; cp $1/copied/nix/store/*.drv again/nix/store; cp again/nix/store/* nix/store # they are read
			nix-store --dump-db --store $1/copied | strata load-db
			nix-store --dump-db | sort > got; cmp got want
			strata dump-db --store local?root=$1/copied | nix-store --load-db --store $PWD/again
			nix-store --dump-db --store $PWD/again | sort > got; cmp got want`, w.dir)
	})
}

// Damage of a store is found and told as stock Nix does it, whoever wrote the
// store.
func verifyDamage(t *testing.T, byStrata, byStock *house) {
	t.Helper()
	const damage = `
		one() { ls -d nix/store/*-$1 | head -n 1; }
		f=$(one openssl-*)/usr/bin/openssl; chmod u+w $f; echo >> $f
		x=$(one ncurses-term-*); chmod -R u+w $x; rm -r $x
		d=$(one dash-*); chmod -R u+w $d; touch $d/new
		mkdir nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-nobody; touch nix/store/other; `
	const verify = `status=0; nix-store --verify --check-contents 2>&1 | sort || status=$?; echo $status`
	byStrata.sh(t, damage)
	byStock.sh(t, damage)
	want := byStrata.sh(t, "unset NIX_REMOTE; "+verify)
	got := byStock.sh(t, "export NIX_REMOTE=$1; "+verify, byStock.uri())
	if got != want || strings.Count(want, "\n") < 4 {
		t.Errorf("our daemon says\n%s\nand stock Nix\n%s", got, want)
	}
}
