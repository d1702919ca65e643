package store

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/strata-nix/strata/storepath"
)

// An Offer is one place from which a store object can be had.
type Offer struct {
	// Info is what that place says of the object. It has been looked at by nobody:
	// whoever takes the offer checks the signature, and the contents against it.
	Info *PathInfo
	// From is the URI of the place, for people.
	From string
	// Trusted tells that the place needs no signatures.
	Trusted bool
	// DownloadSize is how many bytes have to travel; 0: not known.
	DownloadSize uint64
	// Open begins to give the object's NAR. It may be called by any goroutine, and
	// again after a failure. Whoever calls it closes the reader. Whoever made the offer
	// knows both ends and tells of the transfer, as an activity that ends with the reader.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// An Import is an object that is wanted, with the places that have it, the best
// one first.
type Import struct {
	Path   storepath.Path
	Offers []Offer
	// More, if not nil, is asked for further offers when all have failed; err is what
	// the last one failed with. It gives none when there are none. It may be called by any
	// goroutine.
	More func(ctx context.Context, err error) []Offer
}

// ImportOptions say how objects are imported.
type ImportOptions struct {
	AddOptions
	// Jobs is how many objects are under way at once; 0: as many as the store likes.
	Jobs int
	// Done, if not nil, hears of each import, by its index, when its outcome is
	// certain: valid (err is nil; from is the offer that was taken, nil if the path
	// was valid already) or not. It is called by one goroutine at a time.
	Done func(i int, from *Offer, err error)
}

// Importer takes many objects at once whose contents it asks for itself, several
// at a time.
type Importer interface {
	// Import makes the paths valid. They may come in any order, and refer to each
	// other and to what is valid. An object of which an offer fails, or is not what
	// it promised, is taken from the next one; one that cannot be had, or that refers to one that cannot,
	// stops none that do not need it. Nothing is fetched of a path that is valid, or
	// that somebody else is just making valid. The error joins those of the imports
	// that failed; of those that only refer to such, Done hears a DependencyError.
	Import(ctx context.Context, imports []Import, o ImportOptions) error
}

// DependencyError says of an object that it could not be had because something
// could not that it refers to.
type DependencyError struct {
	Path string // in full
	On   string // what it refers to
}

func (e *DependencyError) Error() string {
	return fmt.Sprintf("some references of path '%s' could not be realised: '%s' could not", e.Path, e.On)
}

// NarOpener gives the contents of objects as streams that are read. It is
// NarSource for a store in which that is the natural direction.
type NarOpener interface {
	// OpenNar begins to give the NAR of a valid path. That it is not the promised
	// one turns out at the latest at its end, see also Verifying. The caller closes
	// the reader.
	OpenNar(ctx context.Context, p storepath.Path) (io.ReadCloser, error)
}

// verifying marks a context. Its value is a *verdict, nil if nobody says how it ended.
type verifying struct{}

// Verifying gives a context in which to open a NAR that the caller compares with its
// hash and size himself, before anything can see what it holds. A store that would
// compare the hash on the way can leave that to him; NARs are large, and to hash them
// twice is half of what reading them costs.
func Verifying(ctx context.Context) context.Context {
	return context.WithValue(ctx, verifying{}, (*verdict)(nil))
}

// VerifyingAloud is Verifying for one NAR, by a caller who calls wrong if it is not the
// promised one. So a store need not compare just to find out what is broken in it.
func VerifyingAloud(ctx context.Context) (_ context.Context, wrong func()) {
	v := &verdict{}
	return context.WithValue(ctx, verifying{}, v), v.wrong
}

// IsVerifying tells that a context comes from Verifying or VerifyingAloud.
func IsVerifying(ctx context.Context) bool {
	_, ok := ctx.Value(verifying{}).(*verdict)
	return ok
}

// OnWrong has f called if the NAR that is opened in a context turns out not to be the
// promised one, and tells whether anybody would say so.
func OnWrong(ctx context.Context, f func()) bool {
	v, _ := ctx.Value(verifying{}).(*verdict)
	if v == nil {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tell = append(v.tell, f)
	return true
}

// verdict is on a NAR.
type verdict struct {
	mu   sync.Mutex
	tell []func()
}

func (v *verdict) wrong() {
	v.mu.Lock()
	tell := v.tell
	v.tell = nil
	v.mu.Unlock()
	for _, f := range tell {
		f()
	}
}

// OpenNar opens the NAR of a valid path of a store that has either of the
// abilities NarOpener and NarSource.
func OpenNar(ctx context.Context, s Store, p storepath.Path) (io.ReadCloser, error) {
	if o, ok := As[NarOpener](s); ok {
		return o.OpenNar(ctx, p)
	}
	source, err := Need[NarSource](s, "narFromPath")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(source.NarFromPath(ctx, p, w))
	}()
	return &pushed{PipeReader: r, cancel: cancel, done: done}, nil
}

// pushed is the reading end of a NAR that is written by another goroutine.
type pushed struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{} // closed when the other goroutine has let go of the store
}

// Close waits for the other goroutine, as the store may be closed next.
func (p *pushed) Close() error {
	p.cancel()
	err := p.PipeReader.Close()
	<-p.done
	return err
}

// Advertiser is a store that says how it wants to be used as a substituter.
type Advertiser interface {
	// Advertise gives the priority, in which lower comes first, and whether the
	// store can be asked about many paths that it probably has not.
	Advertise(ctx context.Context) (priority int, massQuery bool, err error)
}

// DownloadSizer is a store whose objects travel in another form than they are
// in, compressed for instance.
type DownloadSizer interface {
	// DownloadSizes gives the bytes that each of paths takes to fetch, 0 where that
	// is not known.
	DownloadSizes(ctx context.Context, paths []storepath.Path) ([]uint64, error)
}
