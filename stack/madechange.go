package stack

import (
	"context"
	"fmt"
	"slices"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// ChangeKind is what became of a lower since an upper was made for it.
type ChangeKind string

// The kinds.
const (
	LowerSame     ChangeKind = "same"
	LowerGrew     ChangeKind = "grew"     // it has all that was looked at, and more
	LowerReplaced ChangeKind = "replaced" // it is another, or has lost something
	LowerUnknown  ChangeKind = "unknown"  // could not tell
	LowerAdded    ChangeKind = "added"
	LowerGone     ChangeKind = "gone"
)

// LowerChange is what became of one lower.
type LowerChange struct {
	Name string     `json:"name"` // now; of one that is gone, as it was
	Kind ChangeKind `json:"kind"`
	Why  string     `json:"why,omitempty"` // a part of a sentence: "its image is another one"
	// Was and Now are the places in the lists, -1: in none.
	Was int `json:"-"`
	Now int `json:"-"`
}

func (c LowerChange) String() string {
	s := fmt.Sprintf("lower '%s': %s", c.Name, c.Kind)
	if c.Why != "" {
		s += ": " + c.Why
	}
	return s
}

// Changes is what became of all lowers, those of now first, in their order.
type Changes []LowerChange

// Harmless tells that everything is as it was, but for what lowers have gained.
// Otherwise what the upper leans on may be missing.
func (cs Changes) Harmless() bool {
	return !slices.ContainsFunc(cs, func(c LowerChange) bool {
		return c.Kind != LowerSame && c.Kind != LowerGrew || c.Was != c.Now
	})
}

// Same tells that nothing has changed at all.
func (cs Changes) Same() bool {
	return cs.Harmless() && !slices.ContainsFunc(cs, func(c LowerChange) bool { return c.Kind != LowerSame })
}

// PresentLower is a lower that is there and open.
type PresentLower struct {
	RunLower
	Store store.Store
}

// Compare tells what became of the lowers. It asks each of them some questions, and takes
// no longer when they are large. That one cannot be asked is a change of the kind
// [LowerUnknown]; the error is that of ctx.
func (m *Made) Compare(ctx context.Context, now []PresentLower) (Changes, error) {
	identities := make([]MadeLower, len(now))
	errs := make([]error, len(now))
	for i, l := range now {
		identities[i], errs[i] = IdentifyLower(ctx, l.RunLower, l.Store)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	was := m.match(identities)
	var out Changes
	for i, l := range now {
		c := LowerChange{Name: l.Name, Was: was[i], Now: i}
		switch {
		case errs[i] != nil:
			c.Kind, c.Why = LowerUnknown, errs[i].Error()
		case was[i] < 0:
			c.Kind = LowerAdded
		default:
			c.Kind, c.Why = m.Lowers[was[i]].compare(ctx, &identities[i], l.Store)
		}
		out = append(out, c)
	}
	for i := range m.Lowers {
		if !slices.Contains(was, i) {
			out = append(out, LowerChange{Name: m.Lowers[i].Name, Kind: LowerGone, Was: i, Now: -1})
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, nil
}

// match gives the old place of each lower, -1 if it is new: by identity, whatever it
// is called now, and else by name.
func (m *Made) match(now []MadeLower) []int {
	was := slices.Repeat([]int{-1}, len(now))
	for _, same := range []func(a, b *MadeLower) bool{(*MadeLower).identical, func(a, b *MadeLower) bool { return a.Name == b.Name }} {
		for i := range now {
			for j := range m.Lowers {
				if was[i] < 0 && !slices.Contains(was, j) && same(&m.Lowers[j], &now[i]) {
					was[i] = j
				}
			}
		}
	}
	return was
}

// identical tells that two are one for certain, as far as that goes without the
// database.
func (l *MadeLower) identical(o *MadeLower) bool {
	switch {
	case l.Kind != o.Kind:
		return false
	case l.Image != nil && o.Image != nil:
		return *l.Image == *o.Image
	case l.Directory != nil && o.Directory != nil && l.Directory.FileSystem != "":
		return *l.Directory == *o.Directory && l.State == o.State
	}
	return l.Given == o.Given && l.Real == o.Real && l.State == o.State
}

// compare tells what became of a lower that is now another or the same. st is the lower
// as it is now.
func (l *MadeLower) compare(ctx context.Context, now *MadeLower, st store.Store) (ChangeKind, string) {
	switch {
	case l.Kind != now.Kind:
		return LowerReplaced, fmt.Sprintf("it was of the kind '%s', and is of the kind '%s'", l.Kind, now.Kind)
	case l.Kind == KindImage && (l.Image == nil || now.Image == nil):
		return LowerUnknown, "its image was not looked at"
	case l.Image != nil && now.Image != nil && *l.Image != *now.Image:
		return LowerReplaced, "its image is another one"
	case l.Image == nil && !l.identical(now):
		return LowerReplaced, "its directory is another one"
	case l.Database == nil || now.Database == nil:
		return LowerSame, "" // whether it has grown it does not tell
	}
	lost, err := l.Database.lost(ctx, st)
	switch {
	case err != nil:
		return LowerUnknown, err.Error()
	case lost > 0 && lost == len(l.Database.Samples):
		return LowerReplaced, "its database has none of the paths that were looked at"
	case lost > 0:
		return LowerReplaced, fmt.Sprintf("its database has lost %d of the %d paths that were looked at", lost, len(l.Database.Samples))
	case now.Database.Highest < l.Database.Highest:
		return LowerReplaced, "its database is another one"
	case now.Database.Highest > l.Database.Highest:
		return LowerGrew, ""
	}
	return LowerSame, ""
}

// lost counts the samples that a store does not have any more, or has with other
// contents.
func (d *DatabaseIdentity) lost(ctx context.Context, st store.Store) (int, error) {
	paths := make([]storepath.Path, len(d.Samples))
	for i, s := range d.Samples {
		var err error
		if paths[i], err = storepath.ParseBase(s.Path); err != nil {
			return 0, err
		}
	}
	infos, err := st.PathInfos(ctx, paths)
	if err != nil {
		return 0, err
	}
	n := 0
	for i, info := range infos {
		if info == nil || info.NarHash != d.Samples[i].NarHash {
			n++
		}
	}
	return n, nil
}

// lookAtDatabase finds out what identifies a lower's database.
func lookAtDatabase(ctx context.Context, db *nixdb.DB) (*DatabaseIdentity, error) {
	highest, err := db.MaxPaths(ctx)
	if err != nil {
		return nil, err
	}
	infos, err := db.Sample(ctx, maxSamples)
	if err != nil {
		return nil, err
	}
	d := &DatabaseIdentity{Highest: highest}
	for _, info := range infos {
		d.Samples = append(d.Samples, Sample{Path: info.Path.Base(), NarHash: info.NarHash})
	}
	return d, nil
}
