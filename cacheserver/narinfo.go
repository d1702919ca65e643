package cacheserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
	"github.com/strata-nix/strata/trust"
)

// find gives what is known of the valid path with a hash part.
func (s *Server) find(ctx context.Context, hashPart string) (*store.PathInfo, error) {
	p, err := s.hashes.PathFromHashPart(ctx, hashPart)
	if err != nil {
		return nil, err
	}
	if p.IsZero() {
		return nil, notHere("there is no path with hash part %s", hashPart)
	}
	return s.infoOf(ctx, p)
}

func (s *Server) infoOf(ctx context.Context, p storepath.Path) (*store.PathInfo, error) {
	info, err := store.PathInfoOf(ctx, s.o.Store, p)
	if err != nil {
		return nil, err
	}
	if info.NarSize == 0 || info.NarHash.IsZero() {
		s.o.Log.Warn("a path cannot be served, since the store does not know its size", "path", s.o.Store.Dir().Print(p))
		return nil, notHere("the size of %s is not known", p.Base())
	}
	return info, nil
}

// narinfo answers with what is known of a path.
func (s *Server) narinfo(w *answerWriter, r *http.Request, hashPart string) error {
	info, err := s.find(r.Context(), hashPart)
	if err != nil {
		return err
	}
	text, err := s.narinfoText(info)
	if err != nil {
		return err
	}
	return s.text(w, r, "text/x-nix-narinfo", text)
}

func (s *Server) narinfoText(info *store.PathInfo) ([]byte, error) {
	dir := s.o.Store.Dir()
	ni := &narinfo.NarInfo{PathInfo: *info.Clone(), Compression: string(s.o.Compression)}
	ni.URL = narName{hashPart: info.Path.HashPart(), hash: info.NarHash, method: s.o.Compression}.url()
	if s.o.Compression == compress.None {
		ni.FileHash, ni.FileSize = info.NarHash, info.NarSize
	}
	if err := trust.Sign(&ni.PathInfo, dir, s.o.Keys...); err != nil {
		return nil, err
	}
	return ni.Text(dir)
}

// text answers with something small that is at hand, and may say instead that the
// client has it already.
func (s *Server) text(w *answerWriter, r *http.Request, contentType string, text []byte) error {
	h := w.Header()
	h.Set("Content-Type", contentType)
	if h.Get("Etag") == "" {
		sum := sha256.Sum256(text)
		h.Set("Etag", `"`+hex.EncodeToString(sum[:16])+`"`)
	}
	r.Header.Del("Range") // not worth it
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
	return nil
}

// realisation answers with what an output of a content-addressed derivation turned
// out to be.
func (s *Server) realisation(w *answerWriter, r *http.Request, id store.DrvOutput) error {
	q, err := store.Need[store.RealisationQuerier](s.o.Store, "queryRealisation")
	if err != nil {
		return err
	}
	found, err := q.Realisations(r.Context(), []store.DrvOutput{id})
	if err != nil {
		return err
	}
	if found[0] == nil {
		return notHere("there is no realisation of %s", id)
	}
	re := *found[0]
	if err := trust.SignRealisation(&re, s.o.Keys...); err != nil {
		return err
	}
	text, err := re.MarshalJSON()
	if err != nil {
		return err
	}
	return s.text(w, r, "application/json", text)
}

// cacheInfo answers with what the cache says of itself.
func (s *Server) cacheInfo(w *answerWriter, r *http.Request) error {
	mass := 1
	if s.o.NoMassQuery {
		mass = 0
	}
	text := fmt.Sprintf("StoreDir: %s\nWantMassQuery: %d\nPriority: %s\n", s.o.Store.Dir(), mass, strconv.Itoa(s.o.Priority))
	return s.text(w, r, "text/x-nix-cache-info", []byte(text))
}
