package check

import (
	"context"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/storepath"
)

// mendReference finds out what a path refers to whose reference leads nowhere: from a
// lower that has the same object, or by looking for store paths in it. If it mentions
// paths that are valid nowhere, it is not whole, and given up.
func mendReference(ctx context.Context, r *repairs, f *Finding) error {
	db, err := r.own(f)
	if err != nil {
		return err
	}
	d, ok := f.data.(nixdb.Damage)
	if !ok {
		return errNothingKnown
	}
	if d.Table != "Refs" || d.Path.IsZero() {
		return db.DropDangling(ctx, d)
	}
	rows, err := db.LookUp(ctx, []storepath.Path{d.Path})
	if err != nil || rows[0].ID == 0 {
		return err
	}
	known, err := r.fromLower(ctx, f)
	if err != nil {
		return err
	}
	refs, lost := []storepath.Path(nil), []string(nil)
	if known != nil && known.NarHash == rows[0].NarHash {
		refs = known.References
	} else if refs, lost, err = r.scan(ctx, rows[0]); err != nil {
		return r.drop(ctx, f, err)
	}
	if len(lost) > 0 {
		return r.drop(ctx, f, fmt.Errorf("it mentions '%s', which is valid nowhere", lost[0]))
	}
	if err := r.adopt(ctx, refs); err != nil {
		return err
	}
	return db.SetReferences(ctx, d.Path, refs)
}

// adopt sees to it that paths which only a lower has have rows in the upper.
func (r *repairs) adopt(ctx context.Context, paths []storepath.Path) error {
	if r.Tools.Adopt == nil {
		return nil
	}
	return r.Tools.Adopt(ctx, paths)
}

// scan looks for the paths that an object mentions: those that are valid in any layer, and
// those that are not. An object that is not what it should be is an error.
func (r *repairs) scan(ctx context.Context, row nixdb.Row) (refs []storepath.Path, lost []string, err error) {
	s := &mentions{dir: string(r.Dir) + "/", found: map[string]bool{}}
	h, err := hashObject(ctx, r.realPath(row.Path), s)
	if err != nil {
		return nil, nil, err
	}
	if h.hash != row.NarHash {
		return nil, nil, errors.New("its contents are not those that were registered, so that nobody knows what it refers to")
	}
	for part, inStore := range s.found {
		p, err := r.pathFromHashPart(ctx, part)
		switch {
		case err != nil:
			return nil, nil, err
		case !p.IsZero():
			refs = append(refs, p)
		case inStore:
			lost = append(lost, s.dir+part+"-…")
		}
	}
	return storepath.SortUnique(refs), lost, nil
}

func (r *repairs) pathFromHashPart(ctx context.Context, part string) (storepath.Path, error) {
	for i := range r.Layers {
		if r.Layers[i].DB == nil {
			continue
		}
		p, err := r.Layers[i].DB.PathFromHashPart(ctx, part)
		if err != nil || !p.IsZero() {
			return p, err
		}
	}
	return storepath.Path{}, nil
}

// maxMentions bounds what one object may make us remember.
const maxMentions = 1 << 20

// mentions takes a NAR and notes every hash part with a dash behind it, and whether the
// store directory stood before it.
type mentions struct {
	dir   string
	tail  []byte // the last bytes of what came before
	found map[string]bool
}

// Write takes the next bytes.
func (m *mentions) Write(b []byte) (int, error) {
	text := append(m.tail, b...)
	run := 0 // of digits of hash parts
	for i, c := range text {
		switch {
		case isHashDigit[c]:
			run++
			continue
		case c == '-' && run >= storepath.HashPartLen && (i >= len(m.tail)):
			m.note(text, i-storepath.HashPartLen)
		}
		run = 0
	}
	keep := len(m.dir) + storepath.HashPartLen
	m.tail = append([]byte(nil), text[max(0, len(text)-keep):]...)
	if len(m.found) > maxMentions {
		return 0, errors.New("it mentions too many paths")
	}
	return len(b), nil
}

func (m *mentions) note(text []byte, at int) {
	part := string(text[at : at+storepath.HashPartLen])
	inStore := at >= len(m.dir) && string(text[at-len(m.dir):at]) == m.dir
	m.found[part] = m.found[part] || inStore
}

// isHashDigit has the digits of hash parts.
var isHashDigit = func() (t [256]bool) {
	for _, c := range "0123456789abcdfghijklmnpqrsvwxyz" {
		t[c] = true
	}
	return t
}()
