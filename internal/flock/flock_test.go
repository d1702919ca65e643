package flock

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

func TestExclusion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	a, err := OpenLive(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	for _, m := range []Mode{Shared, Exclusive} {
		if ok, err := b.Try(m); ok || err != nil {
			t.Errorf("mode %d against an exclusive lock: %v, %v", m, ok, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := false
	err = b.Lock(ctx, Exclusive, func() { waited = true; cancel() })
	if !waited || !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled wait: waited %v, %v", waited, err)
	}
	_ = a.Close()
	if ok, err := b.Try(Shared); !ok || err != nil {
		t.Errorf("after the other closed: %v, %v", ok, err)
	}
}

func TestDeletedLockIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	a, err := OpenLive(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The waiter has the old file open when its holder deletes it.
	type result struct {
		l   *Lock
		err error
	}
	started, got := make(chan struct{}), make(chan result)
	go func() {
		l, err := OpenLive(t.Context(), path, func() { close(started) })
		got <- result{l, err}
	}()
	<-started
	a.Delete()
	_ = a.Close()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer func() { _ = r.l.Close() }()
	if stale, err := r.l.Marked(); stale || err != nil {
		t.Errorf("the waiter got a deleted lock: %v, %v", stale, err)
	}
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if ok, _ := c.Try(Exclusive); ok {
		t.Error("the file at the path is not the locked one")
	}
}
