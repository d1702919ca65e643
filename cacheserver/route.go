package cacheserver

import (
	"net/http"
	"strings"

	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// handler answers a request, or says why it cannot. What it returns after it has
// begun to answer cuts the connection.
type handler func(w *answerWriter, r *http.Request) error

// route finds what a path of a URL means: the kind of it, for metrics, and what
// answers. Whatever is in the path was parsed when it returns.
func (s *Server) route(path string) (kind string, h handler) {
	name, ok := strings.CutPrefix(path, "/")
	if !ok {
		return "other", nowhere
	}
	switch name {
	case "":
		return "index", s.index
	case "nix-cache-info":
		return "cache-info", s.cacheInfo
	case "healthz":
		return "healthz", s.health
	case "metrics":
		return "metrics", s.metrics.answer
	}
	dir, rest, inDir := strings.Cut(name, "/")
	if !inDir {
		return s.routeHashPart(name)
	}
	switch dir {
	case "nar":
		if n, err := parseNarName(rest); err == nil {
			return "nar", func(w *answerWriter, r *http.Request) error { return s.nar(w, r, n) }
		}
	case "log":
		if p, err := storepath.ParseBase(rest); err == nil {
			return "log", func(w *answerWriter, r *http.Request) error { return s.log(w, r, p) }
		}
	case "realisations":
		if id, ok := strings.CutSuffix(rest, ".doi"); ok {
			if o, err := store.ParseDrvOutput(id); err == nil {
				return "realisation", func(w *answerWriter, r *http.Request) error { return s.realisation(w, r, o) }
			}
		}
	}
	return "other", nowhere
}

func (s *Server) routeHashPart(name string) (string, handler) {
	hash, ext, _ := strings.Cut(name, ".")
	if storepath.CheckHashPart(hash) != nil {
		return "other", nowhere
	}
	switch ext {
	case "narinfo":
		return "narinfo", func(w *answerWriter, r *http.Request) error { return s.narinfo(w, r, hash) }
	case "ls":
		return "listing", func(w *answerWriter, r *http.Request) error { return s.listing(w, r, hash) }
	}
	return "other", nowhere
}

func nowhere(*answerWriter, *http.Request) error {
	return notHere("there is no such file in a binary cache")
}

// narName is the name of a NAR in the cache.
type narName struct {
	hashPart string
	hash     nixhash.Hash
	method   compress.Method
}

// url is the inverse of parseNarName, relative to the cache.
func (n narName) url() string {
	c, _ := codecOf(n.method) // checked when it was set
	return "nar/" + n.hashPart + "-" + n.hash.Digest(nixhash.Nix32) + ".nar" + c.extension
}

// parseNarName reads "<hash part>-<NAR hash>.nar" with the extension of a
// compression.
func parseNarName(name string) (n narName, err error) {
	stem, ext, _ := strings.Cut(name, ".nar")
	hashPart, hash, _ := strings.Cut(stem, "-")
	if err := storepath.CheckHashPart(hashPart); err != nil {
		return n, err
	}
	if n.hash, err = nixhash.ParseDigest(hash, nixhash.SHA256); err != nil {
		return n, err
	}
	n.hashPart = hashPart
	for _, c := range codecs {
		if c.extension == ext {
			n.method = c.method
			if n.url() == "nar/"+name { // one spelling only
				return n, nil
			}
		}
	}
	return n, notHere("there is no such file in a binary cache")
}
