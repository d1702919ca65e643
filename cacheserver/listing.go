package cacheserver

import (
	"bufio"
	"context"
	"errors"
	"net/http"

	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// listing answers with what is in an object.
func (s *Server) listing(w *answerWriter, r *http.Request, hashPart string) error {
	info, err := s.find(r.Context(), hashPart)
	if err != nil {
		return err
	}
	tag := `"` + info.NarHash.Digest(nixhash.Nix32) + `-ls"`
	w.Header().Set("Etag", tag)
	if matches(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	select {
	case s.listings <- struct{}{}:
		defer func() { <-s.listings }()
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
	l, err := s.object(info).list(r.Context())
	if err != nil {
		return err
	}
	text, err := l.MarshalJSON()
	if errors.Is(err, nar.ErrNotUTF8) {
		return notHere("%s has names that a listing cannot express", info.Path.Base())
	}
	if err != nil {
		return err
	}
	return s.text(w, r, "application/json", text)
}

// list lists an object: its files if they are here, else its NAR.
func (o *object) list(ctx context.Context) (*nar.Listing, error) {
	if o.file != "" {
		return nar.ListTree(ctx, o.file)
	}
	r, err := store.OpenNar(ctx, o.st, o.info.Path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return nar.List(bufio.NewReaderSize(r, 64<<10))
}
