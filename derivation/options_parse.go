package derivation

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// Options reads the options of b, whose inputs are resolved.
func (b *Basic) Options(dir storepath.Dir) (*Options, error) {
	return b.options(dir, nil)
}

// Options reads the options of d. Placeholders of outputs that are not built yet
// are left out of ExportReferencesGraph, and are no paths in checks: before it
// builds, one resolves d and reads them again.
func (d *Derivation) Options(dir storepath.Dir) (*Options, error) {
	unresolved := map[string]bool{}
	for p, node := range d.InputDrvs {
		for _, name := range node.Outputs {
			if ph, err := UnknownOutput(p, name); err == nil {
				unresolved[ph.String()] = true
			}
		}
		for name, child := range node.Dynamic {
			if ph, err := UnknownOutput(p, name); err == nil {
				addPlaceholders(unresolved, ph, child)
			}
		}
	}
	return d.options(dir, unresolved)
}

func addPlaceholders(set map[string]bool, drv Placeholder, n InputNode) {
	for _, name := range n.Outputs {
		set[drv.Output(name).String()] = true
	}
	for name, child := range n.Dynamic {
		addPlaceholders(set, drv.Output(name), child)
	}
}

func (b *Basic) options(dir storepath.Dir, unresolved map[string]bool) (*Options, error) {
	structured, err := b.StructuredAttrs()
	if err != nil {
		return nil, fmt.Errorf("derivation '%s': %w", b.Name, err)
	}
	r := optionReader{attrs: attrs{env: b.Env}, dir: dir, unresolved: unresolved}
	if structured != nil {
		r.attrs = attrs{values: structured.values, structured: true}
	}
	o := &Options{Structured: structured}
	if o.Structured != nil {
		r.warnings(o, b.Env)
	}
	r.checks(o)
	r.discards(o)
	if o.Structured == nil {
		o.PassAsFile = sortNames(strings.FieldsFunc(b.Env["passAsFile"], isSeparator))
	}
	r.graphs(o)
	o.AdditionalSandboxProfile = r.text("__sandboxProfile")
	o.NoChroot = r.bool("__noChroot", false)
	o.ImpureHostDeps = r.set("__impureHostDeps")
	o.ImpureEnvVars = r.set("impureEnvVars")
	o.AllowLocalNetworking = r.bool("__darwinAllowLocalNetworking", false)
	o.RequiredSystemFeatures = r.set("requiredSystemFeatures")
	o.PreferLocalBuild = r.bool("preferLocalBuild", false)
	o.AllowSubstitutes = r.bool("allowSubstitutes", true)
	if r.err != nil {
		return nil, fmt.Errorf("%w: derivation '%s': %w", ErrInvalid, b.Name, r.err)
	}
	return o, nil
}

// optionReader reads attributes; its first error stays.
type optionReader struct {
	attrs
	dir        storepath.Dir
	unresolved map[string]bool // placeholders
}

// warnings are about attributes that structured ones disable.
func (r *optionReader) warnings(o *Options, env map[string]string) {
	for _, name := range []string{
		"allowedReferences", "allowedRequisites", "disallowedRequisites", "disallowedReferences", "maxSize", "maxClosureSize",
	} {
		if _, ok := r.values[name]; ok {
			o.Warnings = append(o.Warnings, fmt.Sprintf(
				"'structuredAttrs' disables the effect of the top-level attribute '%s'; use 'outputChecks' instead", name))
		}
	}
	if _, ok := env["passAsFile"]; ok {
		o.Warnings = append(o.Warnings,
			"'structuredAttrs' disables the effect of the top-level attribute 'passAsFile'; because all JSON is always passed via file")
	}
}

func (r *optionReader) checks(o *Options) {
	if !r.structured {
		o.AllChecks = &OutputChecks{
			IgnoreSelf:           true,
			AllowedReferences:    r.refs(r.setIfThere("allowedReferences")),
			DisallowedReferences: r.refs(r.setIfThere("disallowedReferences")),
			AllowedRequisites:    r.refs(r.setIfThere("allowedRequisites")),
			DisallowedRequisites: r.refs(r.setIfThere("disallowedRequisites")),
		}
		return
	}
	v, ok := r.values["outputChecks"]
	if !ok {
		return
	}
	o.OutputChecks = map[string]*OutputChecks{}
	perOutput, err := object(v)
	if err != nil {
		r.fail("while parsing attribute 'outputChecks'", err)
	}
	for _, output := range sortedKeys(perOutput) {
		where := fmt.Sprintf("while parsing attribute 'outputChecks.%q", output)
		checks, err := object(perOutput[output])
		if err != nil {
			r.fail(where+"'", err)
			return
		}
		o.OutputChecks[output] = r.outputChecks(where, checks)
	}
}

// outputChecks reads the checks of one output from structured attributes.
func (r *optionReader) outputChecks(where string, v map[string]any) *OutputChecks {
	c := &OutputChecks{}
	for name, to := range map[string]*[]CheckRef{
		"allowedReferences": &c.AllowedReferences, "disallowedReferences": &c.DisallowedReferences,
		"allowedRequisites": &c.AllowedRequisites, "disallowedRequisites": &c.DisallowedRequisites,
	} {
		if e, ok := v[name]; ok {
			list, err := texts(e)
			if err != nil {
				r.fail(where+"."+name+"'", err)
			}
			*to = r.refs(list)
		}
	}
	for name, to := range map[string]**uint64{"maxSize": &c.MaxSize, "maxClosureSize": &c.MaxClosureSize} {
		if e, ok := v[name]; ok {
			n, err := size(e)
			if err != nil {
				r.fail(where+"."+name+"'", err)
			}
			*to = &n
		}
	}
	return c
}

// refs reads what checks speak about. nil stays nil.
func (r *optionReader) refs(list []string) []CheckRef {
	if list == nil {
		return nil
	}
	refs := make([]CheckRef, 0, len(list))
	for _, s := range list {
		ref := CheckRef{Output: s}
		if p, err := r.dir.Parse(s); err == nil {
			ref = CheckRef{Path: p}
		}
		refs = append(refs, ref)
	}
	return refs
}

func (r *optionReader) discards(o *Options) {
	v, ok := r.values["unsafeDiscardReferences"]
	if !ok {
		return
	}
	const where = "while parsing attribute 'unsafeDiscardReferences'"
	perOutput, err := object(v)
	if err != nil {
		r.fail(where, err)
	}
	o.UnsafeDiscardReferences = make(map[string]bool, len(perOutput))
	for name, v := range perOutput {
		discard, err := boolean(v)
		if err != nil {
			r.fail(where, err)
		}
		o.UnsafeDiscardReferences[name] = discard
	}
}

func (r *optionReader) graphs(o *Options) {
	o.ExportReferencesGraph = map[string][]storepath.Path{}
	if !r.structured {
		r.plainGraphs(o)
		return
	}
	v, ok := r.values["exportReferencesGraph"]
	if !ok {
		return
	}
	graphs, err := object(v)
	if err != nil {
		o.Warnings = append(o.Warnings, "'exportReferencesGraph' in structured attrs is not a JSON object, ignoring")
		return
	}
	for _, name := range sortedKeys(graphs) {
		list, err := flatten(nil, graphs[name])
		if err != nil {
			r.fail("", err)
			return
		}
		r.graph(o, name, list)
	}
}

// graphFile is what a graph's file may be called.
var graphFile = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// plainGraphs reads pairs of a file's name and a path.
func (r *optionReader) plainGraphs(o *Options) {
	text := r.env["exportReferencesGraph"]
	tokens := strings.FieldsFunc(text, isSeparator)
	if len(tokens)%2 != 0 {
		r.fail("", fmt.Errorf("odd number of tokens in 'exportReferencesGraph': '%s'", clip(text)))
		return
	}
	for pair := range slices.Chunk(tokens, 2) {
		if !graphFile.MatchString(pair[0]) {
			r.fail("", fmt.Errorf("invalid file name '%s' in 'exportReferencesGraph'", clip(pair[0])))
			return
		}
		r.graph(o, pair[0], pair[1:])
	}
}

func (r *optionReader) graph(o *Options, name string, list []string) {
	paths := make([]storepath.Path, 0, len(list))
	for _, s := range list {
		if r.unresolved[s] {
			continue
		}
		p, _, err := r.dir.Split(s)
		if err != nil {
			r.fail("while parsing attribute 'exportReferencesGraph'", err)
			return
		}
		paths = append(paths, p)
	}
	o.ExportReferencesGraph[name] = storepath.SortUnique(paths)
}

// flatten collects the texts of nested lists.
func flatten(list []string, v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return append(list, v), nil
	case []any:
		var err error
		for _, e := range v {
			if list, err = flatten(list, e); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, errors.New("'exportReferencesGraph' value is not an array or a string")
}
