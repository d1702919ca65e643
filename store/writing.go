package store

import (
	"context"
	"io"
	"iter"

	"github.com/strata-nix/strata/storepath"
)

// AddOptions say how something is added. The zero value is what an untrusted
// client may do.
type AddOptions struct {
	// Repair replaces an object that is valid already.
	Repair bool
	// NoCheckSigs takes objects that no trusted key has signed.
	NoCheckSigs bool
	// Roots, if not nil, gets each path before anything of it is on disk, so that
	// no garbage collection takes it.
	Roots TempRoots
}

type lockedKey struct{}

// WithLocked says that the caller holds the locks of paths (<path>.lock) already,
// so that whoever adds one of them under ctx must not wait for it.
func WithLocked(ctx context.Context, paths storepath.Set) context.Context {
	return context.WithValue(ctx, lockedKey{}, paths)
}

// Locked tells whether the caller holds the lock of p, see [WithLocked].
func Locked(ctx context.Context, p storepath.Path) bool {
	paths, _ := ctx.Value(lockedKey{}).(storepath.Set)
	return paths.Has(p)
}

// Adder takes objects with known path infos.
type Adder interface {
	// Add reads one NAR and makes info.Path valid. The contents are checked against
	// the info before anything can see them; the signature too, unless options say
	// otherwise. The references must be valid already. Nothing stays of an object
	// that could not be added. A path that is valid already is left as it is, and
	// nar is not read then; otherwise nar is read to the end of the archive and no
	// further.
	Add(ctx context.Context, info *PathInfo, nar io.Reader, o AddOptions) error
}

// ObjectSource gives objects one after the other.
type ObjectSource interface {
	// Next gives the next object, io.EOF after the last. The reader gives exactly
	// the NAR, and is good until the following call of Next, which skips what was
	// left unread of it.
	Next() (*PathInfo, io.Reader, error)
}

// SizedSource is an ObjectSource that knows how many objects are still to come.
// Some receivers want to be told before the first.
type SizedSource interface {
	ObjectSource
	Len() int
}

// MultiAdder takes many objects at once.
type MultiAdder interface {
	// AddMultiple adds all objects of src. References come before their referrers.
	// It registers in batches: after an error, what was complete by then may be
	// valid, and nothing stays of the rest.
	AddMultiple(ctx context.Context, src ObjectSource, o AddOptions) error
}

// AddMultiple adds all objects of src, one by one when the store knows no better.
func AddMultiple(ctx context.Context, s Store, src ObjectSource, o AddOptions) error {
	if m, ok := As[MultiAdder](s); ok {
		return m.AddMultiple(ctx, src, o)
	}
	a, err := Need[Adder](s, "addMultipleToStore")
	if err != nil {
		return err
	}
	for {
		info, nar, err := src.Next()
		if err == io.EOF { //nolint:errorlint // Next's contract
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.Add(ctx, info, nar, o); err != nil {
			return err
		}
	}
}

// Dump is a file system object whose path follows from its contents.
type Dump struct {
	Name       string
	Spec       storepath.Spec   // how it is addressed
	References []storepath.Path // only for Text and Recursive SHA-256
	Contents   io.Reader
	// NAR tells that Contents is a NAR, else it is the bytes of one file. A flat
	// or text object may come either way.
	NAR bool
}

// DumpAdder takes objects whose path follows from their contents.
type DumpAdder interface {
	// AddDump reads the contents and makes the path valid that they have. The
	// references must be valid already. Contents are read to the end of the NAR, or
	// to EOF when they are no NAR. Nothing stays after an error.
	AddDump(ctx context.Context, d Dump, o AddOptions) (*PathInfo, error)
}

// Registrar takes path infos of objects that are in the store directory already.
type Registrar interface {
	// Register makes all paths valid in one transaction, or none. References must
	// be valid or in the same set, and without cycles.
	Register(ctx context.Context, infos []*PathInfo) error
}

// Loader takes any number of path infos.
type Loader interface {
	// Load is Register for a sequence, in memory that does not grow with it when
	// references come before their referrers. An error of infos ends it. It tells how
	// many it read.
	Load(ctx context.Context, infos iter.Seq2[*PathInfo, error]) (int, error)
}

// SignatureAdder adds signatures to valid paths.
type SignatureAdder interface {
	AddSignatures(ctx context.Context, p storepath.Path, sigs []Signature) error
}

// RealisationRegistrar takes realisations.
type RealisationRegistrar interface {
	// RegisterRealisations stores them in one transaction; signatures of one that
	// is known are merged.
	RegisterRealisations(ctx context.Context, rs []*Realisation) error
}

// LogAdder takes build logs.
type LogAdder interface {
	// AddBuildLog stores what log gives as the log of the build of drv.
	AddBuildLog(ctx context.Context, drv storepath.Path, log io.Reader) error
}

// Overridable is a store whose settings a client may change for itself.
type Overridable interface {
	// Override gives a view of the same store with other settings, by their names in
	// nix.conf. Names that the store does not know are passed over, and so are values
	// that make no sense, which the error beside the view tells of. The view shares
	// everything with the store; closing it does nothing.
	Override(settings map[string]string) (Store, error)
}
