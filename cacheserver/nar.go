package cacheserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
)

// forever is how long caches may keep what a URL with a hash in it names.
const forever = "public, max-age=31536000, immutable"

// nar answers with a NAR, or a part of it.
func (s *Server) nar(w *answerWriter, r *http.Request, n narName) error {
	info, err := s.find(r.Context(), n.hashPart)
	if err != nil {
		return err
	}
	if info.NarHash != n.hash {
		return notHere("%s has another NAR", info.Path.Base())
	}
	o := s.object(info)
	h := w.Header()
	h.Set("Cache-Control", forever)
	h.Set("Content-Type", "application/x-nix-nar")
	tag := n.hash.Digest(nixhash.Nix32)
	if n.method != compress.None {
		return s.compressed(w, r, o, n.method, tag)
	}
	if s.o.Encode {
		h.Set("Vary", "Accept-Encoding")
		if r.Header.Get("Range") == "" && acceptsZstd(r.Header) {
			h.Set("Content-Encoding", "zstd")
			return s.compressed(w, r, o, compress.Zstd, tag)
		}
	}
	h.Set("Etag", `"`+tag+`"`)
	return s.plain(w, r, o)
}

// plain sends a NAR as it is.
func (s *Server) plain(w *answerWriter, r *http.Request, o *object) error {
	ranges := r.Header.Get("Range")
	if strings.Contains(ranges, ",") { // of several, each would be looked for from the beginning
		ranges = ""
		r.Header.Del("Range")
	}
	if ranges != "" || r.Method == http.MethodHead || r.Header.Get("If-None-Match") != "" {
		part := &narPart{ctx: r.Context(), o: o}
		defer part.close()
		http.ServeContent(w, r, "", time.Time{}, part)
		if part.err != nil {
			return part.err
		}
		return w.broken
	}
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Length", strconv.FormatUint(o.info.NarSize, 10))
	return o.writeTo(r.Context(), w)
}

// compressed sends a NAR that is compressed on the way. Its length is not known,
// and two of them need not have the same bytes.
func (s *Server) compressed(w *answerWriter, r *http.Request, o *object, m compress.Method, tag string) error {
	tag = `W/"` + tag + "-" + string(m) + `"`
	w.Header().Set("Etag", tag)
	w.Header().Set("Accept-Ranges", "none")
	if matches(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	select {
	case s.compressions <- struct{}{}:
		defer func() { <-s.compressions }()
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	level := compress.DefaultLevel
	if m == s.o.Compression && s.o.CompressionLevel != nil {
		level = *s.o.CompressionLevel
	}
	// The compressor may write from a goroutine of its own, but not after Close.
	c, err := compress.NewWriter(ctx, m, w, compress.Options{Level: level})
	if err != nil {
		return err
	}
	if err := o.writeTo(ctx, c); err != nil {
		cancel()
		_ = c.Close() // ends it; what it wrote is cut off
		return err
	}
	return c.Close()
}

// matches tells whether one of a list of tags is, strength apart, the one given.
func matches(list, tag string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}

// acceptsZstd tells whether a client takes zstd as an encoding.
func acceptsZstd(h http.Header) bool {
	for _, line := range h.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(coding, ";")
			if !strings.EqualFold(strings.TrimSpace(name), "zstd") {
				continue
			}
			q, ok := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
			weight, err := strconv.ParseFloat(q, 64)
			return !ok || err == nil && weight > 0
		}
	}
	return false
}

// narPart is a NAR as http.ServeContent wants it, of which nothing is made until
// it is read.
type narPart struct {
	ctx context.Context //nolint:containedctx // lives as long as one request
	o   *object
	pos int64
	r   io.ReadCloser // at pos, nil until something is read
	err error         // of the store
}

// Seek moves the place that is read next.
func (p *narPart) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += p.pos
	case io.SeekEnd:
		offset += int64(p.o.info.NarSize)
	}
	if offset < 0 {
		return p.pos, errors.New("seek before the beginning")
	}
	if offset != p.pos {
		p.close()
		p.pos = offset
	}
	return p.pos, nil
}

// Read reads from there.
func (p *narPart) Read(b []byte) (int, error) {
	left := int64(p.o.info.NarSize) - p.pos
	if left <= 0 {
		return 0, io.EOF
	}
	if p.r == nil && p.err == nil {
		p.r, p.err = p.o.openAt(p.ctx, p.pos)
	}
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.r.Read(b[:min(int64(len(b)), left)])
	p.pos += int64(n)
	if err == io.EOF && p.pos < int64(p.o.info.NarSize) { //nolint:errorlint // a Reader's contract
		err = p.o.short(p.pos)
	}
	if err != nil && err != io.EOF { //nolint:errorlint // the same
		p.err = err
	}
	return n, err
}

func (p *narPart) close() {
	if p.r != nil {
		_ = p.r.Close()
		p.r = nil
	}
}

// short is the error about a NAR that ends before its size.
func (o *object) short(n int64) error {
	return fmt.Errorf("%w: the NAR of '%s' ends after %d of %d bytes", store.ErrMismatch, o.full, n, o.info.NarSize)
}
