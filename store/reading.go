package store

import (
	"context"
	"io"
	"time"

	"github.com/strata-nix/strata/storepath"
)

// ReferrerQuerier knows the graph backwards.
type ReferrerQuerier interface {
	// Referrers gives, for each of paths, the valid paths that refer to it, sorted.
	// An invalid path has none.
	Referrers(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error)
}

// DeriverQuerier knows which derivations produce a path.
type DeriverQuerier interface {
	// ValidDerivers gives the valid derivations that have p as an output.
	ValidDerivers(ctx context.Context, p storepath.Path) ([]storepath.Path, error)
}

// OutputQuerier knows the outputs of derivations.
type OutputQuerier interface {
	// DerivationOutputs maps the names of the outputs of a valid derivation to their
	// paths, the zero path where it is not known (yet).
	DerivationOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error)
}

// HashPartQuerier completes a hash part.
type HashPartQuerier interface {
	// PathFromHashPart gives the valid path with that hash part, zero if there is
	// none.
	PathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error)
}

// NarSource gives the contents of objects.
type NarSource interface {
	// NarFromPath writes the NAR of a valid path to w. What it writes has not been
	// compared with the path's NAR hash.
	NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error
}

// Directory is a store whose objects are files of this machine.
type Directory interface {
	// RealDir is where the objects are: RealDir()/<path.Base()>.
	RealDir() string
}

// Fronted is a Directory of which some objects are in other directories as well, from
// where they are read faster. As layers of an overlay, those come before RealDir.
type Fronted interface {
	Directory
	FrontDirs() []string
}

// Dirs are the directories of a store's objects as layers of an overlay, first wins;
// none if its objects are not files of this machine.
func Dirs(s Store) []string {
	d, ok := As[Directory](s)
	if !ok || d.RealDir() == "" {
		return nil
	}
	if f, ok := As[Fronted](s); ok {
		return append(f.FrontDirs(), d.RealDir())
	}
	return []string{d.RealDir()}
}

// Appearing is a store in whose directory objects show that were not there when
// somebody looked, without a trace that the directory has changed.
type Appearing interface {
	// Appeared tells whether that may have happened since it was asked last.
	Appeared() bool
}

// FetchMeter is a store of which objects come from elsewhere when they are read.
type FetchMeter interface {
	// FetchedFor tells how many bytes have come because processes read that parent has started
	// since a time, or others that descend from those. They may have ended.
	FetchedFor(ctx context.Context, parent int, since time.Time) (bytes uint64, err error)
}

// RealisationQuerier knows what content-addressed derivations produced.
type RealisationQuerier interface {
	// Realisations gives one answer for each id, nil where there is none.
	Realisations(ctx context.Context, ids []DrvOutput) ([]*Realisation, error)
}

// Substitutable is what a store knows about a path that it could get from
// elsewhere.
type Substitutable struct {
	Path         storepath.Path
	Deriver      storepath.Path   // zero: unknown
	References   []storepath.Path // sorted, no doubles
	DownloadSize uint64           // bytes; 0: unknown
	NarSize      uint64           // bytes; 0: unknown
}

// SubstituterQuerier knows what could be had from elsewhere, whether it is valid
// here or not.
type SubstituterQuerier interface {
	// SubstitutablePaths gives those of paths that could be had from substituters that
	// can be asked about many.
	SubstitutablePaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error)
	// Substitutables gives one answer for each of paths, nil where there is none.
	// cas has the content address of each path, zero where the asker knows none: a
	// path with one may be had from a store with another directory.
	Substitutables(ctx context.Context, paths []storepath.Path, cas []storepath.ContentAddress) ([]*Substitutable, error)
}

// LogQuerier has build logs.
type LogQuerier interface {
	// BuildLog opens the log of the build of a derivation; the caller closes it.
	// [ErrNoLog] says that there is none.
	BuildLog(ctx context.Context, drv storepath.Path) (io.ReadCloser, error)
}

// Truster is a store that knows how far it trusts whoever uses it.
type Truster interface {
	Trust(ctx context.Context) (Trust, error)
}

// Trust is how far the other side trusts a client.
type Trust uint8

// The answers, in the numbers of the worker protocol.
const (
	TrustUnknown Trust = 0
	Trusted      Trust = 1
	NotTrusted   Trust = 2
)

// Layered is a store made of others.
type Layered interface {
	// Layers gives the upper layer first, then the lowers from the top down. They
	// belong to the layered store, which closes them.
	Layers() []Layer
}

// Layer is one layer of a layered store, for looking at.
type Layer struct {
	Name  string // "upper", "lower 1", …
	Upper bool
	Store Store // without abilities to write, if it is a lower
}
