package cacheserver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/strata-nix/strata/storepath"
)

// index answers people who look at the cache with a browser.
func (s *Server) index(w *answerWriter, r *http.Request) error {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "This is a binary cache of the Nix store %s.\n\nTo use it, put into nix.conf:\n\n", s.o.Store.Dir())
	fmt.Fprintf(&b, "  extra-substituters = %s://%s\n", scheme, plainHost(r.Host))
	if len(s.o.Keys) > 0 {
		b.WriteString("  extra-trusted-public-keys =")
		for _, k := range s.o.Keys {
			b.WriteString(" " + k.Public().String())
		}
		b.WriteByte('\n')
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	return s.text(w, r, "text/plain; charset=utf-8", []byte(b.String()))
}

// plainHost is what a client called us, if nothing in it needs explaining.
func plainHost(host string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._:[]"
	if host == "" || strings.Trim(host, plain) != "" {
		return "HOST"
	}
	return host
}

// healthTimeout is how long the store may take to say that it is there.
const healthTimeout = 5 * time.Second

// health answers whether the store does.
func (s *Server) health(w *answerWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	// Nothing has this hash part, which a store has to look up nevertheless.
	if _, err := s.hashes.PathFromHashPart(ctx, strings.Repeat("0", storepath.HashPartLen)); err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return s.text(w, r, "text/plain; charset=utf-8", []byte("ok\n"))
}
