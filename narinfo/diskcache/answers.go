package diskcache

import (
	"context"
	"encoding/json"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Answers are those of one binary cache.
type Answers struct {
	c   *Cache
	uri string
	dir storepath.Dir
}

// Answer is what a cache said to a question. Nil stands for "not known".
type Answer[T any] struct {
	Value *T // nil: the cache has none
}

// maxText bounds the bytes of a text that is remembered. The few that are larger
// are asked for each time.
const maxText = 256 << 10

// skew is how far in the future an answer may have come, when clocks differ.
const skew = 60

// mine is the cache's number, in statements whose first two parameters are its
// URI and store directory.
const mine = "(select id from Caches where uri = ?1 and dir = ?2)"

// Info is the cache's nix-cache-info.
func (a *Answers) Info(ctx context.Context) (info narinfo.CacheInfo, known bool) {
	a.c.with(ctx, func(h *handle) error {
		now := time.Now()
		return h.exec("select info from Caches where uri = ?1 and dir = ?2 and fetched > ?3 and fetched <= ?4",
			func(s *sqlite.Stmt) error {
				i, err := narinfo.ParseCacheInfo(a.c.o.File, []byte(s.ColumnText(0)))
				info, known = i, err == nil
				return nil
			}, a.uri, string(a.dir), now.Add(-a.c.o.TTL.Meta).Unix(), now.Unix()+skew)
	})
	return info, known
}

// SetInfo remembers the cache's nix-cache-info. Nothing else is remembered of a
// cache of which that is not.
func (a *Answers) SetInfo(ctx context.Context, info narinfo.CacheInfo) {
	a.c.with(ctx, func(h *handle) error {
		return h.exec("insert into Caches (uri, dir, info, fetched) values (?, ?, ?, ?)"+
			" on conflict (uri, dir) do update set info = excluded.info, fetched = excluded.fetched",
			nil, a.uri, string(a.dir), string(info.Text()), time.Now().Unix())
	})
}

// NarInfos gives one answer for each hash part, nil where none is known. It is one
// statement, whatever their number.
func (a *Answers) NarInfos(ctx context.Context, hashParts []string) []*Answer[narinfo.NarInfo] {
	return lookup(ctx, a, "select hash, text from NarInfos where cache = "+mine+" and hash", hashParts,
		func(hash, text string) *narinfo.NarInfo {
			info, err := narinfo.Parse(a.dir, hash, []byte(text))
			if err != nil || info.Path.HashPart() != hash {
				return nil
			}
			return info
		})
}

// Realisations gives one answer for each id, nil where none is known.
func (a *Answers) Realisations(ctx context.Context, ids []store.DrvOutput) []*Answer[store.Realisation] {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = id.String()
	}
	return lookup(ctx, a, "select id, text from Realisations where cache = "+mine+" and id", keys,
		func(key, text string) *store.Realisation {
			r := new(store.Realisation)
			if err := r.UnmarshalJSON([]byte(text)); err != nil || r.ID.String() != key {
				return nil
			}
			return r
		})
}

// lookup runs sql, which ends in a column that is to be one of keys, and gives an
// answer for each of them. What parse does not understand is not known.
func lookup[T any](ctx context.Context, a *Answers, sql string, keys []string, parse func(key, text string) *T) []*Answer[T] {
	answers := make([]*Answer[T], len(keys))
	list, err := json.Marshal(keys)
	if err != nil || len(keys) == 0 {
		return answers
	}
	found := make(map[string]*Answer[T], len(keys))
	now := time.Now()
	positive, negative := store.AnswerAgeOf(ctx).Shortest(a.c.o.TTL.Positive, a.c.o.TTL.Negative)
	ok := a.c.with(ctx, func(h *handle) error {
		return h.exec(sql+" in (select value from json_each(?3)) and fetched > case when text is null then ?4 else ?5 end and fetched <= ?6",
			func(s *sqlite.Stmt) error {
				key := s.ColumnText(0)
				if s.ColumnType(1) == sqlite.TypeNull {
					found[key] = &Answer[T]{}
				} else if v := parse(key, s.ColumnText(1)); v != nil {
					found[key] = &Answer[T]{Value: v}
				}
				return nil
			}, a.uri, string(a.dir), string(list),
			now.Add(-negative).Unix(), now.Add(-positive).Unix(), now.Unix()+skew)
	})
	if !ok {
		return answers
	}
	for i, k := range keys {
		answers[i] = found[k]
	}
	return answers
}

// SetNarInfos remembers what the cache said about hash parts, in one transaction;
// nil that it has none.
func (a *Answers) SetNarInfos(ctx context.Context, infos map[string]*narinfo.NarInfo) {
	texts := make(map[string]*string, len(infos))
	for hash, info := range infos {
		if info == nil {
			texts[hash] = nil
		} else if b, err := info.Text(a.dir); err == nil {
			texts[hash] = new(string(b))
		}
	}
	a.set(ctx, "NarInfos (cache, hash, text, fetched)", texts)
}

// SetRealisations remembers what the cache said about ids; nil that it has none.
func (a *Answers) SetRealisations(ctx context.Context, rs map[store.DrvOutput]*store.Realisation) {
	texts := make(map[string]*string, len(rs))
	for id, r := range rs {
		if r == nil {
			texts[id.String()] = nil
		} else if b, err := r.MarshalJSON(); err == nil {
			texts[id.String()] = new(string(b))
		}
	}
	a.set(ctx, "Realisations (cache, id, text, fetched)", texts)
}

func (a *Answers) set(ctx context.Context, table string, texts map[string]*string) {
	if len(texts) == 0 {
		return
	}
	a.c.with(ctx, func(h *handle) error {
		now := time.Now().Unix()
		return h.transaction(func() error {
			for key, text := range texts {
				var value any
				if text != nil {
					if len(*text) > maxText {
						continue
					}
					value = *text
				}
				err := h.exec("insert or replace into "+table+" select id, ?3, ?4, ?5 from Caches where uri = ?1 and dir = ?2", nil,
					a.uri, string(a.dir), key, value, now)
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// Forget makes narinfos unknown that turned out not to be true any more.
func (a *Answers) Forget(ctx context.Context, hashParts ...string) {
	a.c.with(ctx, func(h *handle) error {
		return h.transaction(func() error {
			for _, hash := range hashParts {
				if err := h.exec("delete from NarInfos where cache = "+mine+" and hash = ?3", nil, a.uri, string(a.dir), hash); err != nil {
					return err
				}
			}
			return nil
		})
	})
}
