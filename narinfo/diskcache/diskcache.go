// Package diskcache remembers what binary caches have answered: their
// nix-cache-info, narinfos and realisations, and that there are none. One SQLite
// file serves all caches and all processes of a user.
//
//	c := diskcache.Open(diskcache.Options{File: file, TTL: diskcache.DefaultTTL})
//	defer c.Close()
//	answers := c.Of("https://cache.example.org", storepath.DefaultDir)
//	for i, a := range answers.NarInfos(ctx, hashParts) { … }
//
// It never fails: an answer that is not known, too old, or cannot be read has to
// be asked for again, and nothing is known while the file cannot be used, which is
// told once as a warning. What it gives has been read from a file, and is as little
// to be trusted as what the network gives.
//
// Which file, and why not that of Nix: doc/decisions/20261121_narinfo_cache.md.
package diskcache

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/storepath"
)

// TTL is for how long answers are believed. Zero is not at all. Who reads decides,
// whoever wrote them.
type TTL struct {
	Positive time.Duration // narinfo-cache-positive-ttl
	Negative time.Duration // narinfo-cache-negative-ttl
	Meta     time.Duration // narinfo-cache-meta-ttl, for nix-cache-info
}

// DefaultTTL has Nix's defaults.
var DefaultTTL = TTL{Positive: 30 * 24 * time.Hour, Negative: time.Hour, Meta: 7 * 24 * time.Hour}

// Options say where answers are kept.
type Options struct {
	// File is created if it is not there, with its directory. "" keeps nothing.
	File string
	TTL  TTL
}

// Cache is the file. It is for any number of goroutines.
type Cache struct {
	o    Options
	turn chan *handle // who has what is in there may use the file
	told chan struct{}
}

// Open makes a cache. The file is opened when it is needed.
func Open(o Options) *Cache {
	c := &Cache{o: o, turn: make(chan *handle, 1), told: make(chan struct{}, 1)}
	c.turn <- &handle{}
	return c
}

// TTL is for how long answers are believed.
func (c *Cache) TTL() TTL { return c.o.TTL }

// Close gives everything back. The cache must not be used afterwards.
func (c *Cache) Close() error {
	h := <-c.turn
	return h.close()
}

// errOff: the file could not be used a moment ago.
var errOff = errors.New("not used for a while")

// pause is for how long a file is left alone that could not be used.
const pause = 5 * time.Minute

// with runs f on the open file. It tells whether that went well; how it did not
// is for nobody but the user to know.
func (c *Cache) with(ctx context.Context, f func(*handle) error) bool {
	if c.o.File == "" {
		return false
	}
	var h *handle
	select {
	case h = <-c.turn:
	case <-ctx.Done():
		return false
	}
	defer func() { c.turn <- h }()
	err := h.ready(c.o)
	if err == nil {
		h.conn.SetInterrupt(ctx.Done())
		err = f(h)
		h.conn.SetInterrupt(nil)
	}
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil, busy(err), errors.Is(err, errOff):
		return false
	}
	h.offUntil = time.Now().Add(pause)
	_ = h.close() // it is in no good state anyway
	select {
	case c.told <- struct{}{}:
		activity.Warnf(ctx, "answers of binary caches are not remembered: '%s': %v", c.o.File, err)
	default:
	}
	return false
}

// Of gives what is known of one binary cache, by its URI without parameters, as
// seen by stores with a directory.
func (c *Cache) Of(uri string, dir storepath.Dir) *Answers {
	return &Answers{c: c, uri: uri, dir: cmp.Or(dir, storepath.DefaultDir)}
}
