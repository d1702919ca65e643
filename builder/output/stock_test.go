package output_test

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/strata-nix/strata/builder/output"
	"github.com/strata-nix/strata/internal/testenv"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/store/storetest"
	"github.com/strata-nix/strata/storepath"
)

// stock is a stock Nix with its store.
type stock struct {
	*testenv.NixEnv
	s *local.Store
}

func newStock(t *testing.T) *stock {
	t.Helper()
	nix := testenv.Nix(t, "2.34")
	nix.Configure(t, "experimental-features = nix-command ca-derivations impure-derivations dynamic-derivations git-hashing")
	nix.Run(t, "nix-store", "--init")
	s, err := local.Open(t.Context(), local.Options{Root: nix.Dir, CADerivations: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &stock{nix, s}
}

// instantiate makes a derivation whose builder leaves files, see [file].
func (n *stock) instantiate(t *testing.T, attrs string, outputs []string, files []file) (expr string, drv storepath.Path) {
	t.Helper()
	script := ""
	fill := strings.NewReplacer("{dep}", "$dep")
	if strings.Contains(attrs, "__structuredAttrs") {
		script = `. "$NIX_ATTRS_SH_FILE"` + "\n"
		for _, o := range outputs {
			script += o + "=${outputs[" + o + "]}\n"
		}
	}
	for _, f := range files {
		at := "$" + f.output
		if f.name != "" {
			at += "/" + f.name
			script += fmt.Sprintf("mkdir -p \"%s\"\n", path.Dir(at))
		}
		contents := fill.Replace(f.contents)
		for _, o := range outputs {
			contents = strings.ReplaceAll(contents, "{"+o+"}", "$"+o)
		}
		if target, ok := strings.CutPrefix(contents, "->"); ok {
			script += fmt.Sprintf("ln -s \"%s\" \"%s\"\n", target, at)
			continue
		}
		script += fmt.Sprintf("printf %%s \"%s\" > \"%s\"\n", contents, at)
		if strings.HasPrefix(f.name, "bin/") {
			script += fmt.Sprintf("chmod +x \"%s\"\n", at)
		}
	}
	expr = n.WriteFile(t, "x.nix", fmt.Sprintf(`derivation {
		name = "x"; system = builtins.currentSystem; builder = "/bin/bash"; PATH = "/usr/bin:/bin";
		args = [ "-c" ''%s'' ]; outputs = [ "%s" ]; dep = builtins.toFile "dep" "dep";
		%s
	}`, strings.ReplaceAll(script, "${", "''${"), strings.Join(outputs, `" "`), attrs))
	text, _, _ := strings.Cut(strings.TrimSpace(n.Run(t, "nix-instantiate", expr)), "!")
	drv, err := n.s.Dir().Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return expr, drv
}

// replay makes the job of a derivation of a stock store in a store of ours.
func (n *stock) replay(t *testing.T, drv storepath.Path, files []file) (*world, *output.Job) {
	t.Helper()
	w := newWorld(t)
	infos, err := store.Closure(t.Context(), n.s, []storepath.Path{drv})
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		nar, err := store.OpenNar(t.Context(), n.s, info.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(t.Context(), info, nar, store.AddOptions{NoCheckSigs: true}); err != nil {
			t.Fatal(err)
		}
		_ = nar.Close()
	}
	d, err := w.Derivation(t.Context(), drv)
	if err != nil {
		t.Fatal(err)
	}
	job := w.job(t, d, elsewhere)
	if job.DrvPath != drv {
		t.Fatalf("the derivation '%s' of stock Nix is '%s' here", drv, job.DrvPath)
	}
	w.build(t, job, files...)
	return w, job
}

const floatingAttrs = `__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`

// The same outputs become the same objects, in the same words of the database.
func TestStockNixRegistersTheSame(t *testing.T) {
	n := newStock(t)
	hash := func(s string) string { return `outputHashAlgo = null; outputHash = "` + s + `";` }
	sri := func(h nixhash.Hash) string { return h.Digest(nixhash.SRI) }
	for i, c := range []struct {
		name, attrs string
		outputs     []string
		files       []file
	}{
		{"input-addressed", "", []string{"out", "dev", "lib"}, []file{
			{"out", "bin/x", "{dep} {lib} {out}"}, {"out", "l", "->{dev}/y"}, {"dev", "y", "{lib}"}, {"lib", "", "{lib}"}}},
		{"floating", floatingAttrs, []string{"out", "dev", "lib"}, []file{
			{"out", "bin/x", "{dep} {lib} {out}"}, {"out", "l", "->{dev}/y"}, {"dev", "y", "{lib}"}, {"lib", "", "{lib}"}}},
		{"floating without references", floatingAttrs, []string{"out"}, []file{{"out", "a", "a"}}},
		{"floating SHA-512", strings.Replace(floatingAttrs, "sha256", "sha512", 1), []string{"out"}, []file{{"out", "a", "a"}}},
		{"floating flat", strings.Replace(floatingAttrs, "recursive", "flat", 1), []string{"out"}, []file{{"out", "", "flat"}}},
		{"floating text", strings.Replace(floatingAttrs, "recursive", "text", 1), []string{"out"}, []file{{"out", "", "text {dep}"}}},
		{"floating Git", `__contentAddressed = true; outputHashMode = "git"; outputHashAlgo = "sha1";`, []string{"out"}, []file{
			{"out", "bin/x", "x"}, {"out", "b", "->bin"}, {"out", "bin-", "y"}}},
		{"fixed flat", hash(sri(nixhash.Of(nixhash.SHA512, "flat"))), []string{"out"}, []file{{"out", "", "flat"}}},
		{"fixed text", `outputHashMode = "text";` + hash(sri(nixhash.Of(nixhash.SHA256, "text"))), []string{"out"}, []file{{"out", "", "text"}}},
		{"fixed recursive", `outputHashMode = "recursive";` + hash(sri(storetest.File(t, n.s.Dir(), "x", "tree").Info.NarHash)), []string{"out"}, []file{{"out", "", "tree"}}},
		{"impure", `__impure = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`, []string{"out"}, []file{{"out", "a", "{out} {dep}"}}},
		{"discarded", floatingAttrs + `__structuredAttrs = true; unsafeDiscardReferences = { raw = true; };`, []string{"out", "raw"}, []file{
			{"out", "", "{raw} {out}"}, {"raw", "", "{raw} {out}"}}},
		{"discarded, in their order", floatingAttrs + `__structuredAttrs = true; unsafeDiscardReferences = { raw = true; };`, []string{"a", "raw"}, []file{
			{"a", "", "{a}"}, {"raw", "", "{raw} {a}"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			attrs := c.attrs + fmt.Sprintf("nr = %d;", i)
			expr, drv := n.instantiate(t, attrs, c.outputs, c.files)
			built := n.Run(t, "nix", "build", "--no-link", "--print-out-paths", "--file", expr)
			w, job := n.replay(t, drv, c.files)
			r := w.register(t, job, output.Options{Realisations: true})
			if !strings.HasSuffix(built, w.Dir().Print(r.Infos[c.outputs[0]].Path)) && len(c.outputs) == 1 {
				t.Errorf("stock built %s, and we %s", built, r.Infos["out"].Path)
			}
			for _, name := range c.outputs {
				got, err := store.PathInfoOf(t.Context(), w, r.Infos[name].Path)
				if err != nil {
					t.Fatal(err)
				}
				want, err := store.PathInfoOf(t.Context(), n.s, got.Path)
				if err != nil {
					t.Errorf("output %s: stock has another path than we: %v", name, err)
					continue
				}
				got.Registered, want.Registered = 0, 0
				if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
					t.Errorf("output %s: %+v, stock has %+v", name, got, want)
				}
				id := []store.DrvOutput{r.Realisations[name].ID}
				ours, err := w.Realisations(t.Context(), id)
				theirs, err2 := n.s.Realisations(t.Context(), id)
				if errors.Join(err, err2) != nil || fmt.Sprintf("%+v", ours[0]) != fmt.Sprintf("%+v", theirs[0]) {
					t.Errorf("output %s: %+v, stock has %+v, %v, %v", name, ours[0], theirs[0], err, err2)
				}
			}
		})
	}
}

// What cannot be registered is refused in the same words.
func TestStockNixRefusesTheSame(t *testing.T) {
	n := newStock(t)
	for _, c := range []struct {
		name, attrs string
		outputs     []string
		files       []file
	}{
		{"missing", "", []string{"out", "dev"}, []file{{"out", "", "x"}}},
		{"cycle", "", []string{"a", "b", "c"}, []file{{"a", "", "{b}"}, {"b", "", "{c}"}, {"c", "", "{a}"}}},
		{"hash", `outputHashAlgo = "sha256"; outputHash = "0000000000000000000000000000000000000000000000000000";`, []string{"out"}, []file{{"out", "", "x"}}},
		{"allowedReferences", `allowedReferences = [ ];`, []string{"out"}, []file{{"out", "a", "{out} {dep}"}}},
		{"allowedRequisites", `allowedRequisites = [ "out" ];`, []string{"out"}, []file{{"out", "a", "{out} {dep}"}}},
		{"disallowedReferences", `disallowedReferences = [ "dev" ];`, []string{"out", "dev"}, []file{{"out", "a", "{dev}"}, {"dev", "", ""}}},
		{"disallowedRequisites", `disallowedRequisites = [ "out" ];`, []string{"dev", "out"}, []file{{"out", "", ""}, {"dev", "", "{out}"}}},
		{"no such output", `disallowedRequisites = [ "doc" ];`, []string{"out"}, []file{{"out", "", ""}}},
		{"size", `__structuredAttrs = true; outputChecks.out.maxSize = 1;`, []string{"out"}, []file{{"out", "", ""}}},
		{"closure size", `__structuredAttrs = true; outputChecks.out.maxClosureSize = 1;`, []string{"out"}, []file{{"out", "", ""}}},
		{"flat", `outputHashAlgo = "sha256"; outputHash = "0000000000000000000000000000000000000000000000000000";`, []string{"out"}, []file{{"out", "a", "x"}}},
		{"flat with references", strings.Replace(floatingAttrs, "recursive", "flat", 1), []string{"out"}, []file{{"out", "", "{dep}"}}},
		{"text with itself", strings.Replace(floatingAttrs, "recursive", "text", 1), []string{"out"}, []file{{"out", "", "{out}"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			expr, drv := n.instantiate(t, c.attrs, c.outputs, c.files)
			said := n.RunFails(t, "nix-build", "--no-out-link", expr)
			w, job := n.replay(t, drv, c.files)
			_, err := output.Register(t.Context(), w.backing, job, output.Options{Realisations: true})
			var f *output.Failure
			if !errors.As(err, &f) {
				t.Fatalf("%v; stock says %s", err, said)
			}
			if !strings.Contains(squeeze(said), squeeze(f.Message)) {
				t.Errorf("%s\nstock says\n%s", f.Message, said)
			}
		})
	}
}

var realPath = regexp.MustCompile(`"/[^"]*"`)

// squeeze leaves the words alone: stock indents and colours, and has scratch outputs
// elsewhere on disk.
func squeeze(s string) string {
	s = realPath.ReplaceAllString(s, "…")
	for _, colour := range []string{"\x1b[31;1m", "\x1b[35;1m", "\x1b[34;1m", "\x1b[0m"} {
		s = strings.ReplaceAll(s, colour, "")
	}
	return strings.Join(slices.Collect(strings.FieldsSeq(s)), " ")
}
