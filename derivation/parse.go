package derivation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// Limits on what a derivation may hold. They are far above what anybody writes.
const (
	MaxSize     = 64 << 20 // bytes of a file
	maxElements = 1 << 20  // of one list
	maxDynamic  = 32       // levels of dynamic derivations
)

// dynamicVersion is the only version that the versioned form has so far.
const dynamicVersion = "xp-dyn-drv"

// Parse reads the text of a .drv file. name is the derivation's, see
// [NameFromPath]. An error is a *[SyntaxError], or an [ErrInvalid] for a text in
// which every part is right but the whole is not.
//
// It is stricter than Nix in what no version of Nix ever wrote: separators must
// be there and nowhere else, nothing may come twice or follow the end, names of
// outputs must be fit for store paths, and the path of a fixed output must be
// the right one.
func Parse(dir storepath.Dir, name string, text []byte) (*Derivation, error) {
	if len(text) > MaxSize {
		return nil, &SyntaxError{Name: name, Offset: MaxSize, Why: fmt.Sprintf("a derivation of more than %d bytes", MaxSize)}
	}
	p := &parser{text: string(text), name: name, dir: dir}
	d := &Derivation{Basic: Basic{Name: name}}
	p.derivation(d)
	if p.err != nil {
		return nil, p.err
	}
	if err := d.validate(); err != nil {
		return nil, err
	}
	return d, nil
}

// parser keeps the first error and does nothing after it. Strings that it gives
// out are parts of text where that is possible.
type parser struct {
	text string
	pos  int
	err  error
	name string
	dir  storepath.Dir
}

func (p *parser) fail(at int, err error, why string, args ...any) {
	if p.err == nil {
		p.err = &SyntaxError{Name: p.name, Offset: at, Why: fmt.Sprintf(why, args...), Err: err}
	}
}

// expect takes exactly s.
func (p *parser) expect(s string) {
	if p.err != nil {
		return
	}
	if !strings.HasPrefix(p.text[p.pos:], s) {
		p.fail(p.pos, nil, "expected string '%s'", s)
		return
	}
	p.pos += len(s)
}

// take takes c if it is next.
func (p *parser) take(c byte) bool {
	if p.err != nil || p.pos >= len(p.text) || p.text[p.pos] != c {
		return false
	}
	p.pos++
	return true
}

// list takes "[a,b,…]", each element by item.
func (p *parser) list(item func()) {
	p.expect("[")
	if p.take(']') {
		return
	}
	for n := 0; p.err == nil; n++ {
		if n == maxElements {
			p.fail(p.pos, nil, "a list of more than %d elements", maxElements)
			return
		}
		item()
		if !p.take(',') {
			p.expect("]")
			return
		}
	}
}

// str takes a string in quotes.
func (p *parser) str() string {
	start := p.pos
	p.expect(`"`)
	if p.err != nil {
		return ""
	}
	rest := p.text[p.pos:]
	end := strings.IndexByte(rest, '"')
	if end >= 0 && strings.IndexByte(rest[:end], '\\') < 0 {
		p.pos += end + 1
		return rest[:end]
	}
	return p.escaped(start)
}

// escaped takes the rest of a string that has an escape or no end.
func (p *parser) escaped(start int) string {
	var b strings.Builder
	for {
		rest := p.text[p.pos:]
		i := strings.IndexAny(rest, `"\`)
		if i < 0 || rest[i] == '\\' && i+1 == len(rest) {
			p.fail(start, nil, "unterminated string in derivation")
			return ""
		}
		b.WriteString(rest[:i])
		p.pos += i + 1
		if rest[i] == '"' {
			return b.String()
		}
		b.WriteByte(unescape(rest[i+1]))
		p.pos++
	}
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	default:
		return c
	}
}

// path takes a store path in quotes.
func (p *parser) path() storepath.Path {
	at := p.pos
	s := p.str()
	if p.err != nil {
		return storepath.Path{}
	}
	sp, err := p.dir.Parse(s)
	if err != nil {
		p.fail(at, err, "bad path in derivation")
	}
	return sp
}

func (p *parser) derivation(d *Derivation) {
	versioned := strings.HasPrefix(p.text, "Dr")
	switch {
	case versioned:
		p.expect("DrvWithVersion(")
		if v := p.str(); p.err == nil && v != dynamicVersion {
			p.fail(0, nil, "Unknown derivation ATerm format version '%s'", clip(v))
		}
		p.expect(",")
	case strings.HasPrefix(p.text, "De"):
		p.expect("Derive(")
	default:
		p.fail(0, nil, "derivation does not start with 'Derive' or 'DrvWithVersion'")
	}
	d.Outputs = map[string]Output{}
	p.list(func() { p.output(d.Outputs) })
	p.expect(",")
	d.InputDrvs = map[storepath.Path]InputNode{}
	p.list(func() { p.inputDrv(d.InputDrvs, versioned) })
	p.expect(",")
	p.list(func() { d.InputSrcs = append(d.InputSrcs, p.path()) })
	d.InputSrcs = storepath.SortUnique(d.InputSrcs)
	p.expect(",")
	d.Platform = p.str()
	p.expect(",")
	d.Builder = p.str()
	p.expect(",")
	p.list(func() { d.Args = append(d.Args, p.str()) })
	p.expect(",")
	d.Env = map[string]string{}
	p.list(func() { p.envVar(d.Env) })
	p.expect(")")
	if p.err == nil && p.pos < len(p.text) {
		p.fail(p.pos, nil, "something follows the end of the derivation")
	}
}

func (p *parser) output(outputs map[string]Output) {
	at := p.pos
	p.expect("(")
	name := p.str()
	p.expect(",")
	path := p.str()
	p.expect(",")
	algo := p.str()
	p.expect(",")
	hash := p.str()
	p.expect(")")
	if p.err != nil {
		return
	}
	if _, twice := outputs[name]; twice {
		p.fail(at, nil, "output '%s' comes twice", clip(name))
		return
	}
	o, err := parseOutput(p.dir, p.name, name, path, algo, hash)
	if err != nil {
		p.fail(at, err, "output '%s'", clip(name))
	}
	outputs[name] = o
}

func (p *parser) inputDrv(inputs map[storepath.Path]InputNode, versioned bool) {
	at := p.pos
	p.expect("(")
	drv := p.path()
	p.expect(",")
	node := p.inputNode(versioned, 0)
	p.expect(")")
	if p.err != nil {
		return
	}
	if _, twice := inputs[drv]; twice {
		p.fail(at, nil, "input derivation '%s' comes twice", drv.Base())
	}
	inputs[drv] = node
}

// inputNode takes the outputs that are wanted of an input: a list of names, or
// in the versioned form a list and what is wanted of outputs in turn.
func (p *parser) inputNode(versioned bool, depth int) InputNode {
	var n InputNode
	names := func() { n.Outputs = append(n.Outputs, p.outputName()) }
	if !versioned || !p.take('(') {
		p.list(names)
		n.Outputs = sortNames(n.Outputs)
		return n
	}
	if depth == maxDynamic {
		p.fail(p.pos, nil, "dynamic derivations are nested more than %d deep", maxDynamic)
		return n
	}
	p.list(names)
	n.Outputs = sortNames(n.Outputs)
	p.expect(",")
	n.Dynamic = map[string]InputNode{}
	p.list(func() {
		at := p.pos
		p.expect("(")
		name := p.outputName()
		p.expect(",")
		child := p.inputNode(versioned, depth+1)
		p.expect(")")
		if _, twice := n.Dynamic[name]; twice {
			p.fail(at, nil, "output '%s' comes twice", name)
		}
		n.Dynamic[name] = child
	})
	p.expect(")")
	return n
}

func (p *parser) outputName() string {
	at := p.pos
	name := p.str()
	if p.err != nil {
		return ""
	}
	if err := storepath.CheckName(name); err != nil {
		p.fail(at, err, "name of an output")
	}
	return name
}

func (p *parser) envVar(env map[string]string) {
	at := p.pos
	p.expect("(")
	name := p.str()
	p.expect(",")
	value := p.str()
	p.expect(")")
	if p.err != nil {
		return
	}
	if _, twice := env[name]; twice {
		p.fail(at, nil, "environment variable '%s' comes twice", clip(name))
		return
	}
	env[name] = value
}

func sortNames(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
