package binarycache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/objstore"
)

// meta is what is known of the cache itself. The zero value knows nothing.
type meta struct {
	turn lock // who has it may find out
	info narinfo.CacheInfo
	// read tells that info is right, written that the cache has said so itself, since when.
	read, written bool
	since         time.Time
	// failed is why it could not be found out when somebody last asked, at the time at.
	failed error
	at     time.Time
}

// lock is a mutex whose waiting can be canceled; the zero value is not usable.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l lock) release() { <-l }

// readable makes sure that the cache is one for our store directory. An error is
// not remembered, but it is one for all who were waiting meanwhile.
func (s *Store) readable(ctx context.Context) (narinfo.CacheInfo, error) {
	return s.prepare(ctx, false)
}

// writable is readable for somebody who will write: it makes what is no cache one.
func (s *Store) writable(ctx context.Context) error {
	_, err := s.prepare(ctx, true)
	return err
}

func (s *Store) prepare(ctx context.Context, write bool) (narinfo.CacheInfo, error) {
	m, came := &s.meta, time.Now()
	if err := m.turn.acquire(ctx); err != nil {
		return narinfo.CacheInfo{}, err
	}
	defer m.turn.release()
	if m.read && (m.written || !write) && !s.stale(m.since) {
		return m.info, nil
	}
	if s.disk != nil && !write {
		if info, known := s.disk.Info(ctx); known {
			m.info, m.read, m.written, m.since = info, true, false, time.Now()
			return info, nil
		}
	}
	if m.failed != nil && m.at.After(came) && !write {
		return narinfo.CacheInfo{}, m.failed
	}
	info, there, err := s.fetchMeta(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		m.failed, m.at = err, time.Now()
	case err != nil: // nobody else's
	case !there && write:
		info, err = s.writeMeta(ctx)
		there = err == nil
	case !there && s.o.Existing:
		err = fmt.Errorf("'%s' %w: it has no '%s'", s.o.URI, ErrNotCache, narinfo.CacheInfoFile)
	}
	if err != nil {
		return info, err
	}
	if there && s.disk != nil {
		s.disk.SetInfo(ctx, info)
	}
	// An empty cache may become another one, so nothing is remembered of it.
	m.info, m.read, m.written, m.since = info, there, there, time.Now()
	return info, nil
}

// stale tells that what is known of the cache is too old to be believed.
func (s *Store) stale(since time.Time) bool {
	return s.o.TTL.Meta > 0 && time.Since(since) >= s.o.TTL.Meta
}

// fetchMeta reads nix-cache-info. That it is forbidden does not mean that it is
// not there.
func (s *Store) fetchMeta(ctx context.Context) (info narinfo.CacheInfo, there bool, err error) {
	text, err := s.readFile(ctx, narinfo.CacheInfoFile, "", narinfo.MaxCacheInfo)
	if errors.Is(err, objstore.ErrNotExist) {
		return info, false, nil
	}
	if err != nil {
		return info, false, err
	}
	info, err = narinfo.ParseCacheInfo(narinfo.CacheInfoFile, text)
	if err != nil {
		return info, false, s.bad(narinfo.CacheInfoFile, "", err)
	}
	if info.Dir != "" && info.Dir != s.o.Dir {
		return info, false, storeDirError(fmt.Sprintf("binary cache '%s' is for Nix stores with prefix '%s', not '%s'", s.o.URI, info.Dir, s.o.Dir))
	}
	return info, true, nil
}

// writeMeta writes it as Nix does.
func (s *Store) writeMeta(ctx context.Context) (narinfo.CacheInfo, error) {
	info := narinfo.CacheInfo{Dir: s.o.Dir}
	return info, s.writeFile(ctx, narinfo.CacheInfoFile, info.Text(), "", objstore.PutOptions{ContentType: typeCacheInfo})
}

// Advertise gives what the options say, or else the cache itself.
func (s *Store) Advertise(ctx context.Context) (priority int, massQuery bool, err error) {
	info, err := s.readable(ctx)
	if err != nil {
		return 0, false, err
	}
	priority, massQuery = info.Priority, info.WantMassQuery
	if s.o.Priority != nil {
		priority = *s.o.Priority
	}
	if s.o.WantMassQuery != nil {
		massQuery = *s.o.WantMassQuery
	}
	return priority, massQuery, nil
}
