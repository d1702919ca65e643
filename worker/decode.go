package worker

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/wire"
)

// decoder takes the protocol's types off the wire. A value that can be read but
// makes no sense does not stop it: the rest of the message is still read, and
// end tells the error.
type decoder struct {
	*wire.Reader
	dir     storepath.Dir
	version Version
	bad     error
}

// reject notes a value that makes no sense; the first counts.
func (d *decoder) reject(err error) {
	if d.bad == nil && d.Err() == nil {
		d.bad = err
	}
}

// end is the error of the message that has been read. The connection can go on
// if Err is still nil.
func (d *decoder) end() error {
	err := d.Err()
	if err == nil {
		err = d.bad
	}
	d.bad = nil
	return err
}

func (d *decoder) path() storepath.Path {
	s := d.TextMax(maxPath)
	if d.Err() != nil {
		return storepath.Path{}
	}
	p, err := d.dir.Parse(s)
	if err != nil {
		d.reject(err)
	}
	return p
}

// optPath reads a path or nothing.
func (d *decoder) optPath() storepath.Path {
	s := d.TextMax(maxPath)
	if s == "" {
		return storepath.Path{}
	}
	p, err := d.dir.Parse(s)
	if err != nil {
		d.reject(err)
	}
	return p
}

// basePath reads a path that comes without its directory.
func (d *decoder) basePath() storepath.Path {
	s := d.TextMax(maxPath)
	if d.Err() != nil {
		return storepath.Path{}
	}
	p, err := storepath.ParseBase(s)
	if err != nil {
		d.reject(err)
	}
	return p
}

// paths reads a set of paths, sorted.
func (d *decoder) paths() []storepath.Path {
	out := wire.List(d.Reader, func(*wire.Reader) storepath.Path { return d.path() })
	if !slices.IsSortedFunc(out, storepath.Compare) {
		slices.SortFunc(out, storepath.Compare)
	}
	return slices.Compact(out)
}

func (d *decoder) signatures() []store.Signature {
	out := wire.List(d.Reader, func(r *wire.Reader) store.Signature {
		s := r.TextMax(maxPath)
		if r.Err() != nil {
			return ""
		}
		sig, err := store.ParseSignature(s)
		if err != nil {
			d.reject(err)
		}
		return sig
	})
	slices.Sort(out)
	return slices.Compact(out)
}

func (d *decoder) contentAddress() storepath.ContentAddress {
	s := d.TextMax(maxPath)
	ca, err := storepath.ParseContentAddress(s)
	if err != nil {
		d.reject(err)
	}
	return ca
}

// narHash reads a SHA-256 in any spelling.
func (d *decoder) narHash() nixhash.Hash {
	s := d.TextMax(maxPath)
	if d.Err() != nil {
		return nixhash.Hash{}
	}
	h, err := nixhash.ParseAny(s, nixhash.SHA256)
	if err != nil {
		d.reject(err)
	}
	return h
}

// time reads seconds since 1970.
func (d *decoder) time() int64 {
	n := d.Uint64()
	if n > math.MaxInt64 {
		d.reject(fmt.Errorf("%w: time %d", wire.ErrFormat, n))
		return 0
	}
	return int64(n)
}

// info reads what is known about path p, which is not part of it.
func (d *decoder) info(p storepath.Path) *store.PathInfo {
	return &store.PathInfo{
		Path:       p,
		Deriver:    d.optPath(),
		NarHash:    d.narHash(),
		References: d.paths(),
		Registered: d.time(),
		NarSize:    d.Uint64(),
		Ultimate:   d.Bool(),
		Signatures: d.signatures(),
		CA:         d.contentAddress(),
	}
}

// derivedPath reads what a client wants. Before 1.30 a derivation alone stood for
// all its outputs.
func (d *decoder) derivedPath() derivation.DerivedPath {
	s := d.Text()
	if d.Err() != nil {
		return derivation.DerivedPath{}
	}
	p, err := derivation.ParseDerivedPath(d.dir, s)
	if err != nil {
		d.reject(err)
	} else if d.version < v1+30 && p.IsOpaque() && p.Path.IsDerivation() {
		p.Outputs = []string{derivation.AllOutputs}
	}
	return p
}

func (d *decoder) derivedPaths() []derivation.DerivedPath {
	return wire.List(d.Reader, func(*wire.Reader) derivation.DerivedPath { return d.derivedPath() })
}

func (d *decoder) buildMode() store.BuildMode {
	n := d.Uint64()
	if n > uint64(store.BuildCheck) {
		d.reject(fmt.Errorf("%w: Invalid build mode %d", wire.ErrFormat, n))
		return 0
	}
	return store.BuildMode(n)
}

func (d *decoder) drvOutput() store.DrvOutput {
	s := d.TextMax(maxPath)
	if d.Err() != nil {
		return store.DrvOutput{}
	}
	id, err := store.ParseDrvOutput(s)
	if err != nil {
		d.reject(err)
	}
	return id
}

func (d *decoder) realisation() *store.Realisation {
	text := d.Bytes(wire.MaxString)
	r := new(store.Realisation)
	if d.Err() == nil {
		if err := json.Unmarshal(text, r); err != nil {
			d.reject(err)
		}
	}
	return r
}

// buildResult reads the result of what is not part of it.
func (d *decoder) buildResult() *store.BuildResult {
	r := d.buildStatus()
	if d.version >= v1+29 {
		d.buildTimes(r)
	}
	if d.version >= v1+37 {
		r.CPUUser, r.CPUSystem = d.optDuration(), d.optDuration()
	}
	if d.version >= v1+28 {
		d.builtOutputs(r)
	}
	return r
}

// buildStatus begins a result.
func (d *decoder) buildStatus() *store.BuildResult {
	r := &store.BuildResult{Outputs: map[string]*store.Realisation{}}
	status := d.Uint64()
	if status > uint64(store.NoSubstituters) {
		d.reject(fmt.Errorf("%w: Invalid BuildResult status %d", wire.ErrFormat, status))
	}
	r.Status = store.BuildStatus(status)
	r.Message = d.Text()
	return r
}

func (d *decoder) buildTimes(r *store.BuildResult) {
	r.TimesBuilt, r.NonDeterministic = d.Uint64(), d.Bool()
	r.Start, r.Stop = d.time(), d.time()
}

func (d *decoder) builtOutputs(r *store.BuildResult) {
	for range d.Count() {
		id, real := d.drvOutput(), d.realisation()
		if d.Err() != nil {
			return
		}
		r.Outputs[id.Output] = real
	}
}

// optDuration reads microseconds or nothing.
func (d *decoder) optDuration() time.Duration {
	if d.Int(1) == 0 {
		return 0
	}
	const longest = math.MaxInt64 / uint64(time.Microsecond)
	return time.Duration(min(d.Uint64(), longest)) * time.Microsecond
}
