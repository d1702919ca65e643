package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/strata-nix/strata/store"
)

// ErrFault is what faulty offers fail with.
var ErrFault = errors.New("a fault of the test")

// Offer offers an object, and counts in opened, if that is not nil, how often it was opened.
func (o Object) Offer(opened *atomic.Int64) store.Offer {
	return o.faulty(opened, func(context.Context) io.Reader { return o.Reader() })
}

func (o Object) faulty(opened *atomic.Int64, reader func(context.Context) io.Reader) store.Offer {
	return store.Offer{Info: o.Info, From: "test://", Trusted: true, Open: func(ctx context.Context) (io.ReadCloser, error) {
		if opened != nil {
			opened.Add(1)
		}
		return io.NopCloser(reader(ctx)), nil
	}}
}

// Import is the import of an object with one offer.
func (o Object) Import(opened *atomic.Int64) store.Import {
	return store.Import{Path: o.Path(), Offers: []store.Offer{o.Offer(opened)}}
}

// Unopenable is an offer of which nothing comes.
func (o Object) Unopenable() store.Offer {
	offer := o.Offer(nil)
	offer.Open = func(context.Context) (io.ReadCloser, error) { return nil, ErrFault }
	return offer
}

// Broken is an offer that fails after half of the NAR.
func (o Object) Broken() store.Offer {
	return o.faulty(nil, func(context.Context) io.Reader {
		return io.MultiReader(bytes.NewReader(o.NAR[:len(o.NAR)/2]), failing{})
	})
}

// Cut is an offer that ends after half of the NAR as if that was all.
func (o Object) Cut() store.Offer {
	return o.faulty(nil, func(context.Context) io.Reader { return bytes.NewReader(o.NAR[:len(o.NAR)/2]) })
}

// Longer is an offer with something after the NAR.
func (o Object) Longer() store.Offer {
	return o.faulty(nil, func(context.Context) io.Reader { return io.MultiReader(o.Reader(), bytes.NewReader(make([]byte, 8))) })
}

// Changed is an offer of which one byte of a file is another.
func (o Object) Changed() store.Offer {
	nar := bytes.Clone(o.NAR)
	nar[bytes.LastIndex(nar, []byte("contents"))+16] ^= 1 // after the word and the length
	return o.faulty(nil, func(context.Context) io.Reader { return bytes.NewReader(nar) })
}

// Hanging is an offer of which, after half of the NAR, nothing comes until the context ends. It
// calls begun then.
func (o Object) Hanging(begun func()) store.Offer {
	return o.faulty(nil, func(ctx context.Context) io.Reader {
		return io.MultiReader(bytes.NewReader(o.NAR[:len(o.NAR)/2]), hanging{ctx, begun})
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, ErrFault }

type hanging struct {
	ctx   context.Context //nolint:containedctx // of the one request that reads
	begun func()
}

func (h hanging) Read([]byte) (int, error) {
	h.begun()
	<-h.ctx.Done()
	return 0, context.Cause(h.ctx)
}
