package pivot

import (
	"fmt"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Plan is what moving an upper to its new lowers takes. Lists are in the order of their
// paths.
type Plan struct {
	Old, Gone, New []string // names of lowers
	Options        Options
	// Leans are, for each of New, paths of it whose closures are all that the upper is to
	// lean on there. Whoever keeps them for the upper has to know before the commit.
	Leans [][]storepath.Path

	// Kept are the objects that the upper has and keeps.
	Kept Tally
	// Copies come up from old lowers, or from other stores.
	Copies []Copy
	// Duplicates go from the upper because a new lower has them alike. Their rows stay.
	Duplicates []Object
	// Conflicts are paths of which a new lower has other contents.
	Conflicts []Conflict
	// Changed are rows that get what a new lower says; Added those that come up with
	// copies that need them.
	Changed, Added []Row
	// Dropped are rows that go because nothing needs them.
	Dropped []storepath.Path
	// Removed are objects of the upper that go with their rows: with OnlyLive those that
	// nothing keeps alive, with DropMissing those that refer to something missing.
	Removed []Object
	// Missing is what was needed and is given up, with DropMissing.
	Missing []Missing
	// LostRoots are gc roots that lead to nothing afterwards.
	LostRoots []LostRoot
	// Whiteouts are those in the upper's root. They hide what new lowers have.
	Whiteouts []string
	// Hiding are entries of the upper that are not valid, and would hide objects of new
	// lowers.
	Hiding []string
	// Parts are entries of the upper that are not whole without old lowers, and give way
	// to copies or to new lowers' objects.
	Parts []string
	// Bound are entries of the upper with marks that mean something only over old
	// lowers; Merged are directories that are to be marked opaque.
	Bound, Merged []string
}

// Tally is a number of objects and the sum of their sizes as NARs, in bytes.
type Tally struct {
	Objects  int    `json:"objects"`
	NarBytes uint64 `json:"narBytes"`
}

func (t *Tally) add(size uint64) { t.Objects, t.NarBytes = t.Objects+1, t.NarBytes+size }

// Object is an object of the upper.
type Object struct {
	Path    storepath.Path
	NarSize uint64 // bytes; 0: unknown
}

// TallyOf sums up objects.
func TallyOf(objects []Object) (t Tally) {
	for _, o := range objects {
		t.add(o.NarSize)
	}
	return t
}

// Copy is an object that comes up.
type Copy struct {
	Info *store.PathInfo
	// From is the name of the old lower or of the store that it is taken from.
	From string
	// New tells that the upper's database does not have it yet; Row is among Added then.
	New bool
}

// CopyTally sums up copies.
func (p *Plan) CopyTally() (t Tally) {
	for _, c := range p.Copies {
		t.add(c.Info.NarSize)
	}
	return t
}

// Conflict is a path of which the upper's database and a new lower say different things.
type Conflict struct {
	Path  storepath.Path
	Lower string // the new lower
	// Own tells that the upper has an object, which stays and hides the lower's.
	// Otherwise the lower's counts, and the row is changed.
	Own bool
}

// Row is a row of the upper's database as it is to be.
type Row struct {
	Info    *store.PathInfo
	Outputs map[string]storepath.Path // of a derivation
}

// Missing is a path that is needed and that nobody has.
type Missing struct {
	Path storepath.Path
	// By is a path of the upper that refers to it, or zero.
	By storepath.Path
	// Roots are gc roots that lead to it.
	Roots []string
	// Why says what was the matter with it where it should have been; nil if it is not
	// there.
	Why error
}

// LostRoot is a gc root that leads to nothing when all is done.
type LostRoot struct {
	Link string
	Path storepath.Path
	// Removed tells that the link goes. One outside of the state directory is left to
	// its owner.
	Removed bool
}

// Empty tells that nothing at all is to be done but to mount the new lowers.
func (p *Plan) Empty() bool {
	return len(p.Copies)+len(p.Duplicates)+len(p.Changed)+len(p.Added)+len(p.Dropped)+len(p.Removed)+
		len(p.LostRoots)+len(p.Whiteouts)+len(p.Hiding)+len(p.Parts)+len(p.Bound)+len(p.Merged) == 0
}

// MissingError lists what an upper needs and nobody has.
type MissingError struct {
	Dir     storepath.Dir
	Missing []Missing
}

func (e *MissingError) Error() string {
	const most = 5
	s := fmt.Sprintf("%d paths that the upper needs are in none of the new lowers, and cannot be copied", len(e.Missing))
	if len(e.Missing) == 1 {
		s = "a path that the upper needs is in none of the new lowers, and cannot be copied"
	}
	for i, m := range e.Missing {
		if i == most {
			s += fmt.Sprintf("\n  and %d more", len(e.Missing)-most)
			break
		}
		s += "\n  " + m.text(e.Dir)
	}
	return s
}

func (m Missing) text(dir storepath.Dir) string {
	s := dir.Print(m.Path)
	switch {
	case !m.By.IsZero():
		s += ", to which '" + dir.Print(m.By) + "' refers"
	case len(m.Roots) > 0:
		s += ", to which '" + m.Roots[0] + "' leads"
	}
	if m.Why != nil {
		s += ": " + m.Why.Error()
	}
	return s
}
