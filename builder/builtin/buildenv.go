package builtin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A pkg is one output of what is installed in an environment.
type pkg struct {
	path     string
	active   bool
	priority int // the smaller one wins
}

// buildenv makes an environment: a tree of symlinks to the files of packages.
// Source: src/libstore/builtins/buildenv.cc.
func buildenv(ctx context.Context, b *Build) error {
	attrs, err := attributesOf(b.Drv)
	if err != nil {
		return err
	}
	list, err := attrs.need("derivations")
	if err != nil {
		return err
	}
	manifest, err := attrs.need("manifest")
	if err != nil {
		return err
	}
	out, ok := b.Outputs["out"]
	if !ok {
		return errors.New("'builtin:buildenv' requires an 'out' output")
	}
	pkgs, err := parsePackages(list)
	if err != nil {
		return err
	}
	p := &profile{ctx: ctx, view: newView(b), out: b.logical("out"), root: newNode(), done: make(map[string]bool)}
	if err := p.addAll(pkgs); err != nil {
		return err
	}
	p.root.entries["manifest.nix"] = &node{target: manifest}
	return p.write(out)
}

// logical is the name by which an output goes in messages.
func (b *Build) logical(output string) string {
	name := path.Base(b.Outputs[output])
	return string(b.Dir) + "/" + name
}

// parsePackages reads the attribute derivations: words "ACTIVE PRIORITY N", and N
// paths, for each package.
func parsePackages(list string) ([]pkg, error) {
	fault := errors.New("attribute 'derivations' is malformed")
	var pkgs []pkg
	for words := strings.Fields(list); len(words) > 0; {
		if len(words) < 3 {
			return nil, fault
		}
		priority, err1 := strconv.ParseInt(words[1], 10, 32)
		n, err2 := strconv.ParseUint(words[2], 10, 31)
		active := words[0] != "false"
		if words = words[3:]; err1 != nil || err2 != nil || n > uint64(len(words)) {
			return nil, fault
		}
		for _, p := range words[:n] {
			pkgs = append(pkgs, pkg{strings.TrimRight(p, "/"), active, int(priority)})
		}
		words = words[n:]
	}
	return pkgs, nil
}

// firstPropagated is the priority of the first package that another one brings
// along. It comes after all that were asked for.
const firstPropagated = 1000

// addAll adds what is installed, the most important first, then what that
// propagates, round by round.
func (p *profile) addAll(pkgs []pkg) error {
	slices.SortFunc(pkgs, func(a, b pkg) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), strings.Compare(a.path, b.path))
	})
	for _, pkg := range pkgs {
		if pkg.active {
			if err := p.add(pkg.path, pkg.priority); err != nil {
				return err
			}
		}
	}
	for priority := firstPropagated; len(p.postponed) > 0; {
		round := slices.Compact(slices.Sorted(slices.Values(p.postponed)))
		p.postponed = nil
		for _, path := range round {
			if err := p.add(path, priority); err != nil {
				return err
			}
			priority++
		}
	}
	return nil
}

func (p *profile) add(dir string, priority int) error {
	if p.done[dir] {
		return nil
	}
	p.done[dir] = true
	if err := p.link(dir, p.root, p.out, priority, 1); err != nil {
		return err
	}
	words, err := p.propagated(dir)
	if err != nil {
		return err
	}
	for _, w := range words {
		if !p.done[w] {
			p.postponed = append(p.postponed, w)
		}
	}
	return nil
}

// maxPropagated is the size of the largest list of propagated packages, in bytes.
const maxPropagated = 1 << 20

func (p *profile) propagated(dir string) ([]string, error) {
	f, err := p.view.open(dir + "/nix-support/propagated-user-env-packages")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPropagated+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPropagated {
		return nil, fmt.Errorf("'%s' is too large", f.Name())
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == ' ' || r == '\n' }), nil
}
