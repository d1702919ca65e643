package execute

import (
	"fmt"
	"maps"
	"slices"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// scratch is where the outputs are while they are being built.
type scratch struct {
	// paths are those by which the builder knows its outputs, by their names.
	paths map[string]storepath.Path
	// rewrites are what the builder reads instead of what the derivation says:
	// placeholders of outputs, and hash parts of outputs that are made elsewhere.
	rewrites map[string]string
}

// newScratch chooses the scratch paths of a job. In a directory of its own an
// output can always be at the path where it belongs, since nothing else is there.
// In the store, what is valid must not be touched, and a copy of it is built beside it.
func newScratch(dir storepath.Dir, job *Job, apart bool) (*scratch, error) {
	s := &scratch{paths: map[string]storepath.Path{}, rewrites: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(job.Drv.Outputs)) {
		out := job.Outputs[name]
		p, err := out.Path, error(nil)
		switch {
		case out.Path.IsZero():
			p, err = unknownPath(dir, job, name)
		case !apart && out.Valid:
			p, err = besidePath(dir, job, out.Path)
		}
		if err != nil {
			return nil, fmt.Errorf("scratch path of output '%s': %w", name, err)
		}
		s.paths[name] = p
		s.rewrites[derivation.OutputPlaceholder(name)] = dir.Print(p)
		if !out.Path.IsZero() && p != out.Path {
			s.rewrites[out.Path.HashPart()] = p.HashPart()
		}
	}
	return s, nil
}

// The scratch paths have types that no store object has, so that they never meet
// one.
// Source: makeFallbackPath in upstream's derivation-builder.cc, and the Nix
// manual, "Store Path Specification", type "rewrite".

// unknownPath is for an output whose path is not known yet.
func unknownPath(dir storepath.Dir, job *Job, output string) (storepath.Path, error) {
	return dir.Fingerprint("rewrite:"+job.DrvPath.Base()+":name:"+output, zeroHash, storepath.OutputName(job.Drv.Name, output))
}

// besidePath is for an output whose own path is in use.
func besidePath(dir storepath.Dir, job *Job, p storepath.Path) (storepath.Path, error) {
	return dir.Fingerprint("rewrite:"+job.DrvPath.Base()+":"+p.Base(), zeroHash, p.Name())
}

var zeroHash, _ = nixhash.New(nixhash.SHA256, make([]byte, 32))
