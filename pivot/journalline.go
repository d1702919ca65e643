package pivot

import (
	"errors"
	"fmt"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// line is one line of a journal after the first. One member is set.
type line struct {
	Copy    *copyLine `json:"copy,omitempty"`
	Put     *rowLine  `json:"put,omitempty"`
	Drop    string    `json:"drop,omitempty"`    // store path: its row goes
	Aside   string    `json:"aside,omitempty"`   // entry of the layer that gives way
	Remove  string    `json:"remove,omitempty"`  // entry of the layer that goes with or after its row
	White   string    `json:"white,omitempty"`   // whiteout that goes
	Unbind  string    `json:"unbind,omitempty"`  // entry whose marks go
	Opaque  string    `json:"opaque,omitempty"`  // directory to be marked
	Unlink  string    `json:"unlink,omitempty"`  // gc root that goes
	Entries *int      `json:"entries,omitempty"` // how many lines there were; the end of what was planned
	Phase   Phase     `json:"phase,omitempty"`
}

type copyLine struct {
	Path    string       `json:"path"`
	NarHash nixhash.Hash `json:"narHash"`
	NarSize uint64       `json:"narSize,omitempty"`
	From    string       `json:"from"`
}

type rowLine struct {
	Path       string            `json:"path"`
	NarHash    nixhash.Hash      `json:"narHash"`
	NarSize    uint64            `json:"narSize,omitempty"`
	References []string          `json:"references,omitempty"`
	Deriver    string            `json:"deriver,omitempty"`
	Registered int64             `json:"registered,omitempty"`
	Ultimate   bool              `json:"ultimate,omitempty"`
	Signatures []string          `json:"signatures,omitempty"`
	CA         string            `json:"ca,omitempty"`
	Outputs    map[string]string `json:"outputs,omitempty"`
}

func rowToLine(r Row) *rowLine {
	i := r.Info
	l := &rowLine{
		Path: i.Path.Base(), NarHash: i.NarHash, NarSize: i.NarSize, Registered: i.Registered, Ultimate: i.Ultimate, CA: i.CA.String(),
	}
	if !i.Deriver.IsZero() {
		l.Deriver = i.Deriver.Base()
	}
	for _, p := range i.References {
		l.References = append(l.References, p.Base())
	}
	for _, s := range i.Signatures {
		l.Signatures = append(l.Signatures, string(s))
	}
	for name, p := range r.Outputs {
		if l.Outputs == nil {
			l.Outputs = map[string]string{}
		}
		l.Outputs[name] = p.Base()
	}
	return l
}

func (l *rowLine) row() (r Row, err error) {
	i := &store.PathInfo{NarHash: l.NarHash, NarSize: l.NarSize, Registered: l.Registered, Ultimate: l.Ultimate}
	parse := func(into *storepath.Path, base string) {
		if err == nil {
			*into, err = storepath.ParseBase(base)
		}
	}
	parse(&i.Path, l.Path)
	if l.Deriver != "" {
		parse(&i.Deriver, l.Deriver)
	}
	for _, base := range l.References {
		var p storepath.Path
		parse(&p, base)
		i.References = append(i.References, p)
	}
	i.References = storepath.SortUnique(i.References)
	for name, base := range l.Outputs {
		var p storepath.Path
		parse(&p, base)
		if r.Outputs == nil {
			r.Outputs = map[string]storepath.Path{}
		}
		r.Outputs[name] = p
	}
	for _, text := range l.Signatures {
		sig, sigErr := store.ParseSignature(text)
		i.Signatures, err = append(i.Signatures, sig), errors.Join(err, sigErr)
	}
	if err == nil {
		i.CA, err = storepath.ParseContentAddress(l.CA)
	}
	if err == nil && i.NarHash.Algorithm() != nixhash.SHA256 {
		err = fmt.Errorf("the hash of '%s' is no SHA-256", l.Path)
	}
	r.Info = i
	return r, err
}
