package binarycache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/objstore"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// NarFromPath writes the NAR of a path of the cache. It is the promised one, or
// there is an error before its last bytes.
func (s *Store) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	r, err := s.OpenNar(ctx, p)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}

// OpenNar opens the NAR of a path of the cache. It is compared with what the narinfo
// promises while it is read, and io.EOF comes when all is right: who stops before has
// read what nobody has compared. The reader is for one goroutine.
func (s *Store) OpenNar(ctx context.Context, p storepath.Path) (io.ReadCloser, error) {
	// That has been asked a moment ago, by whoever wants answers to be new.
	info, err := s.narInfo(store.WithAnswerAge(ctx, store.AnswerAge{}), p)
	if err != nil {
		return nil, err
	}
	if r := s.openLocal(ctx, info); r != nil {
		return r, nil
	}
	name, query, err := info.RelativeURL()
	if err != nil {
		return nil, s.bad(p.HashPart()+infoSuffix, "", err)
	}
	body, object, err := s.openFile(ctx, name, objstore.GetOptions{Query: query})
	if missing(err) {
		s.forget(ctx, p)
		return nil, s.bad(name, "", ErrGone)
	}
	if err != nil {
		return nil, s.failed("reading", name, err)
	}
	r := &narReader{ctx: ctx, s: s, info: info, name: name, body: body}
	if object.Size >= 0 && info.FileSize > 0 && uint64(object.Size) != info.FileSize {
		return nil, errors.Join(r.broken(fmt.Sprintf("has %d bytes, its narinfo says %d", object.Size, info.FileSize), nil), body.Close())
	}
	if err := r.decompress(compress.Method(info.Compression)); err != nil {
		return nil, errors.Join(err, body.Close())
	}
	r.keep()
	// A file that is the promised one gives another NAR only if the narinfo is a lie,
	// which a caller who compares the NAR notices; if he says so, nothing else needs to be
	// compared. What is kept here must be right.
	told := store.OnWrong(ctx, func() { s.forget(ctx, p) })
	fileChecked := r.file != nil && r.file.hash != nil
	if !told && !fileChecked || r.copy != nil || !store.IsVerifying(ctx) {
		r.hash = nixhash.SHA256.New()
	}
	return r, nil
}

// openLocal opens a NAR of local-nar-cache, nil if it has none.
func (s *Store) openLocal(ctx context.Context, info *narinfo.NarInfo) io.ReadCloser {
	if s.nars == nil {
		return nil
	}
	name := localName(info)
	body, object, err := s.nars.Get(ctx, name, objstore.GetOptions{})
	if err != nil {
		return nil
	}
	if uint64(object.Size) != info.NarSize {
		_ = body.Close() // nothing was read
		return nil
	}
	return &narReader{ctx: ctx, s: s, info: info, name: name, local: true, body: body, src: body, hash: nixhash.SHA256.New()}
}

// localName is the name of a NAR in local-nar-cache.
func localName(info *narinfo.NarInfo) string { return info.NarHash.Digest(nixhash.Nix32) + ".nar" }
