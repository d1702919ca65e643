package objstore

import (
	"context"
	"io"
)

// Stager is a storage to which the bytes of an object can be given before its
// name is known, so that they need not be kept elsewhere. [Stage] is it for every
// storage.
type Stager interface {
	// Stage begins an object whose name will lie in dir, for the caller to end with
	// Commit or Abort.
	Stage(ctx context.Context, dir string) (Staged, error)
}

// Staged is an object that nobody sees yet. It is for one goroutine at a time.
type Staged interface {
	io.Writer
	// Commit is Put of the bytes that were written. The size of the options is not
	// looked at. Nothing may be done with the object afterwards but Abort.
	Commit(ctx context.Context, name string, o PutOptions) error
	// Abort forgets the object. After Commit it does nothing.
	Abort()
}

// stagedInMemory is up to how many bytes of a staged object are kept in memory.
// Most objects of a binary cache stay below.
const stagedInMemory = 256 << 10

// Stage begins an object whose name is not known yet. A storage that is no Stager
// gets it when it is committed; until then what is large is kept in a temporary
// file.
func Stage(ctx context.Context, s Store, dir string) (Staged, error) {
	if st, ok := As[Stager](s); ok {
		return st.Stage(ctx, dir)
	}
	return &spooled{s: s, spool: NewSpool("")}, nil
}

// spooled is an object that is put when it is complete.
type spooled struct {
	s     Store
	spool *Spool
}

func (p *spooled) Write(b []byte) (int, error) { return p.spool.Write(b) }

func (p *spooled) Commit(ctx context.Context, name string, o PutOptions) error {
	defer p.Abort()
	body, err := p.spool.Reader()
	if err != nil {
		return err
	}
	o.Size = p.spool.Size()
	return p.s.Put(ctx, name, body, o)
}

func (p *spooled) Abort() { p.spool.Close() }
