package binarycache_test

import (
	"context"
	"io"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/storetest"
)

// offer offers an object.
func offer(o storetest.Object) store.Offer {
	return store.Offer{Info: o.Info, From: "test://source", Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(o.Reader()), nil
	}}
}
