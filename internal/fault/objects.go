// Package fault breaks things on purpose, for tests.
package fault

import (
	"context"
	"io"
	"iter"
	"sync"

	"github.com/strata-nix/strata/objstore"
)

// Objects is an object storage whose calls a test can watch, fail and spoil.
type Objects struct {
	objstore.Store
	// Before, if not nil, is called before each call: "get", "stat", "put", "list",
	// "delete". Its error is the call's.
	Before func(ctx context.Context, op, name string) error
	// Body, if not nil, may replace what is read.
	Body func(name string, body io.ReadCloser) io.ReadCloser

	mu    sync.Mutex
	calls []string
}

// Calls are those that were made since the last time, "get nar/x" for instance.
func (o *Objects) Calls() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	calls := o.calls
	o.calls = nil
	return calls
}

func (o *Objects) before(ctx context.Context, op, name string) error {
	o.mu.Lock()
	o.calls = append(o.calls, op+" "+name)
	o.mu.Unlock()
	if o.Before == nil {
		return nil
	}
	return o.Before(ctx, op, name)
}

// Get implements objstore.Store.
func (o *Objects) Get(ctx context.Context, name string, g objstore.GetOptions) (io.ReadCloser, objstore.Info, error) {
	if err := o.before(ctx, "get", name); err != nil {
		return nil, objstore.Info{}, err
	}
	body, info, err := o.Store.Get(ctx, name, g)
	if err == nil && o.Body != nil {
		body = o.Body(name, body)
	}
	return body, info, err
}

// Stat implements objstore.Store.
func (o *Objects) Stat(ctx context.Context, name string) (objstore.Info, error) {
	if err := o.before(ctx, "stat", name); err != nil {
		return objstore.Info{}, err
	}
	return o.Store.Stat(ctx, name)
}

// Put implements objstore.Store.
func (o *Objects) Put(ctx context.Context, name string, body io.Reader, p objstore.PutOptions) error {
	if err := o.before(ctx, "put", name); err != nil {
		return err
	}
	return o.Store.Put(ctx, name, body, p)
}

// List implements objstore.Store.
func (o *Objects) List(ctx context.Context, dir string) iter.Seq2[objstore.Info, error] {
	if err := o.before(ctx, "list", dir); err != nil {
		return func(yield func(objstore.Info, error) bool) { yield(objstore.Info{}, err) }
	}
	return o.Store.List(ctx, dir)
}

// Delete implements objstore.Store.
func (o *Objects) Delete(ctx context.Context, name string) error {
	if err := o.before(ctx, "delete", name); err != nil {
		return err
	}
	return o.Store.Delete(ctx, name)
}
