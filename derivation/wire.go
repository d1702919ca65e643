package derivation

import (
	"fmt"

	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// ReadBasic takes a derivation off a connection, in the form in which builds
// are sent to another machine. name is the derivation's, which goes before it in
// its store path. An error leaves the connection unusable.
//
// Form: number of outputs, each as name, path, method with algorithm, and hash;
// the sources as a list; platform; builder; the arguments as a list; number of
// variables, each as name and value.
func ReadBasic(r *wire.Reader, dir storepath.Dir, name string) (*Basic, error) {
	b := &Basic{Name: name, Outputs: map[string]Output{}, Env: map[string]string{}}
	fail := func(format string, args ...any) {
		r.Fail(fmt.Errorf("%w: reading derivation '%s': %w", ErrFormat, clip(name), fmt.Errorf(format, args...)))
	}
	for range r.Count() {
		out, path, algo, hash := r.Text(), r.Text(), r.Text(), r.Text()
		if r.Err() != nil {
			return nil, r.Err()
		}
		o, err := parseOutput(dir, name, out, path, algo, hash)
		if _, twice := b.Outputs[out]; twice {
			fail("output '%s' comes twice", out)
		} else if err != nil {
			fail("output '%s': %w", clip(out), err)
		}
		b.Outputs[out] = o
	}
	b.InputSrcs = storepath.SortUnique(wire.List(r, func(r *wire.Reader) storepath.Path {
		s := r.Text()
		if r.Err() != nil {
			return storepath.Path{}
		}
		p, err := dir.Parse(s)
		if err != nil {
			fail("%w", err)
		}
		return p
	}))
	b.Platform, b.Builder, b.Args = r.Text(), r.Text(), r.Strings()
	for range r.Count() {
		k, v := r.Text(), r.Text()
		if r.Err() != nil {
			return nil, r.Err()
		}
		if _, twice := b.Env[k]; twice {
			fail("environment variable '%s' comes twice", clip(k))
		}
		b.Env[k] = v
	}
	if r.Err() == nil {
		if err := b.validate(); err != nil {
			r.Fail(err)
		}
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return b, nil
}

// WriteBasic is the inverse of ReadBasic. When an output is impossible nothing is
// written, and w stays usable.
func WriteBasic(w *wire.Writer, dir storepath.Dir, b *Basic) error {
	names := b.OutputNames()
	fields := make([][4]string, len(names))
	for i, name := range names {
		path, algo, hash, err := b.Outputs[name].fields(dir, b.Name, name)
		if err != nil {
			return err
		}
		fields[i] = [4]string{name, path, algo, hash}
	}
	w.Uint64(uint64(len(fields)))
	for _, f := range fields {
		for _, s := range f {
			w.Text(s)
		}
	}
	w.Strings(dir.PrintAll(b.InputSrcs))
	w.Text(b.Platform)
	w.Text(b.Builder)
	w.Strings(b.Args)
	w.Uint64(uint64(len(b.Env)))
	for _, k := range sortedKeys(b.Env) {
		w.Text(k)
		w.Text(b.Env[k])
	}
	return w.Err()
}
