package worker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// encoder puts the protocol's types on the wire.
type encoder struct {
	*wire.Writer
	dir     storepath.Dir
	version Version
}

func (e *encoder) path(p storepath.Path) { e.Joined(string(e.dir), "/", p.Base()) }

// optPath writes a path, or nothing for the zero path.
func (e *encoder) optPath(p storepath.Path) {
	if p.IsZero() {
		e.Text("")
	} else {
		e.path(p)
	}
}

func (e *encoder) paths(paths []storepath.Path) {
	e.Uint64(uint64(len(paths)))
	for _, p := range paths {
		e.path(p)
	}
}

func (e *encoder) signatures(sigs []store.Signature) {
	e.Uint64(uint64(len(sigs)))
	for _, s := range sigs {
		e.Text(string(s))
	}
}

// info is the inverse of decoder.info.
func (e *encoder) info(i *store.PathInfo) {
	e.optPath(i.Deriver)
	e.narHash(i.NarHash)
	e.paths(i.References)
	e.Uint64(uint64(i.Registered))
	e.Uint64(i.NarSize)
	e.Bool(i.Ultimate)
	e.signatures(i.Signatures)
	e.Text(i.CA.String())
}

func (e *encoder) narHash(h nixhash.Hash) {
	if h.IsZero() {
		e.Text("")
	} else {
		e.Text(h.Digest(nixhash.Base16))
	}
}

// derivedPath is the inverse of decoder.derivedPath; see Client.expressible.
func (e *encoder) derivedPath(p derivation.DerivedPath) {
	if e.version < v1+30 && p.WantsAll() {
		p.Outputs = nil
	}
	e.Text(p.Text(e.dir))
}

func (e *encoder) derivedPaths(paths []derivation.DerivedPath) {
	e.Uint64(uint64(len(paths)))
	for _, p := range paths {
		e.derivedPath(p)
	}
}

func (e *encoder) realisation(r *store.Realisation) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("realisation '%s': %w", r.ID, err)
	}
	e.Bytes(text)
	return nil
}

// buildResult is the inverse of decoder.buildResult.
func (e *encoder) buildResult(r *store.BuildResult) error {
	e.buildStatus(r)
	if e.version >= v1+29 {
		e.buildTimes(r)
	}
	if e.version >= v1+37 {
		e.optDuration(r.CPUUser)
		e.optDuration(r.CPUSystem)
	}
	if e.version < v1+28 {
		return nil
	}
	return e.builtOutputs(r)
}

func (e *encoder) buildStatus(r *store.BuildResult) {
	status := r.Status
	if status == store.HashMismatch {
		status = store.OutputRejected
	}
	e.Uint64(uint64(status))
	e.Text(r.Message)
}

func (e *encoder) buildTimes(r *store.BuildResult) {
	e.Uint64(r.TimesBuilt)
	e.Bool(r.NonDeterministic)
	e.Uint64(uint64(r.Start))
	e.Uint64(uint64(r.Stop))
}

func (e *encoder) builtOutputs(r *store.BuildResult) error {
	outputs := make([]*store.Realisation, 0, len(r.Outputs))
	for _, o := range r.Outputs {
		outputs = append(outputs, o)
	}
	slices.SortFunc(outputs, func(a, b *store.Realisation) int {
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	e.Uint64(uint64(len(outputs)))
	for _, o := range outputs {
		e.Text(o.ID.String())
		if err := e.realisation(o); err != nil {
			return err
		}
	}
	return nil
}

func (e *encoder) optDuration(d time.Duration) {
	if d <= 0 {
		e.Uint64(0)
		return
	}
	e.Uint64(1)
	e.Uint64(uint64(d / time.Microsecond))
}
