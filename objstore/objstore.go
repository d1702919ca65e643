package objstore

import (
	"context"
	"errors"
	"io"
	"iter"
)

// Errors by what whoever gets them must do. What an implementation cannot do at
// all it answers with [errors.ErrUnsupported].
var (
	// ErrNotExist: there is no object with that name.
	ErrNotExist = errors.New("object does not exist")
	// ErrForbidden: the storage does not let us. Some say so of objects that they
	// have not, too.
	ErrForbidden = errors.New("access denied")
	// ErrName: a text cannot be the name of an object.
	ErrName = errors.New("malformed object name")
	// ErrChanged: the object is not the one that it was.
	ErrChanged = errors.New("object has changed")
	// ErrNoRanges: a part was wanted and no more, and the storage gives whole objects only.
	ErrNoRanges = errors.New("storage gives no parts of objects")
	// ErrSize: the bytes that were to be stored are fewer or more than was said.
	ErrSize = errors.New("object has another size than was said")
)

// Store is storage of named objects. It may be used by any number of goroutines
// at once. Errors wrap the sentinels of this package, and name the object and
// the place.
type Store interface {
	// Get opens an object, or a part of it; the caller closes the reader. The info
	// is of the whole object.
	Get(ctx context.Context, name string, o GetOptions) (io.ReadCloser, Info, error)
	// Stat tells about an object without getting it.
	Stat(ctx context.Context, name string) (Info, error)
	// Put stores an object and replaces the one that was there. When it returns,
	// everybody sees the object whole; after an error nobody sees anything of it.
	// body is read to its end, unless Put fails or has nothing to do.
	Put(ctx context.Context, name string, body io.Reader, o PutOptions) error
	// List gives the objects whose names are dir, a slash and one part more; with
	// dir "" those whose names have one part. They come in no particular order, and
	// an error ends them.
	List(ctx context.Context, dir string) iter.Seq2[Info, error]
	// Delete removes an object. That there is none is no error.
	Delete(ctx context.Context, name string) error
}

// Info is what is known of an object without reading it.
type Info struct {
	Name string
	Size int64 // bytes; -1: not known
	// ETag is the same only as long as the object is; "": not known.
	ETag string
	// ContentEncoding is how the bytes are compressed on top of what the object is,
	// in the words of HTTP; "": not at all, or undone already.
	ContentEncoding string
}

// GetOptions say what of an object is wanted. The zero value is all of it.
type GetOptions struct {
	// Offset is where to begin, in bytes. An offset that is not within the object is
	// an error.
	Offset int64
	// Length is how many bytes at most; 0: all that follow.
	Length int64
	// OnlyPart wants the part or else ErrNoRanges, where otherwise what lies before it would be read
	// and thrown away.
	OnlyPart bool
	// ETag, if set, is that which the object must have, or else ErrChanged.
	ETag string
	// Query is what a web server is told behind the object's name; others pass over
	// it.
	Query string
}

// Unknown is the size of a body of which it is not known.
const Unknown = -1

// PutOptions tell about an object that is stored.
type PutOptions struct {
	// Size of the body in bytes, or Unknown. A body of another size is ErrSize.
	Size            int64
	ContentType     string
	ContentEncoding string // see Info; not every storage can hold it
	// IfAbsent leaves an object that is there as it is, which is no error.
	IfAbsent bool
}

// Unwanted tells whether o wants an object left as it is, and it is there. It is for
// storages that are asked by requests.
func (o *PutOptions) Unwanted(ctx context.Context, s Store, name string) (bool, error) {
	if !o.IfAbsent {
		return false, nil
	}
	_, err := s.Stat(ctx, name)
	switch {
	case err == nil:
		return true, nil
	// Some that do not have it, or may not be listed, say that it is forbidden: the
	// upload will show.
	case errors.Is(err, ErrNotExist), errors.Is(err, ErrForbidden):
		return false, nil
	}
	return false, err
}

// As finds the ability T of a storage: of the storage itself, or of what it
// wraps. A wrapper is anything with a method Unwrap() Store.
func As[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		w, ok := s.(interface{ Unwrap() Store })
		if !ok {
			break
		}
		s = w.Unwrap()
	}
	var none T
	return none, false
}
