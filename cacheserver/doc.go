// Package cacheserver serves any store as a binary cache over HTTP, for stock
// Nix and whatever else reads such caches.
//
//	s, err := cacheserver.New(cacheserver.Options{Store: st})
//	err = s.Serve(ctx, listener)
//
// What there is, for GET and HEAD:
//
//	nix-cache-info                      store directory, priority
//	<hash part>.narinfo                 what is known of a valid path, signed when asked for
//	<hash part>.ls                      what is in it, with the offsets in the NAR
//	nar/<hash part>-<NAR hash>.nar      the NAR; ranges
//	nar/<hash part>-<NAR hash>.nar.xz   the same, compressed while it is sent; also .zst, .gz, .bz2, .br
//	log/<derivation>                    its build log
//	realisations/<id>.doi               what an output of a content-addressed derivation is
//	healthz                             whether the store answers
//	metrics                             for Prometheus
//	/                                   a page for people
//
// Only valid paths are served, and names of files are never made of a URL. A
// path that is not valid is 404; that the store could not be asked is 503, which
// clients do not take for an answer.
//
// The NAR hash in the URL of a NAR makes that URL stand for the same bytes for
// ever, so it may be cached without asking again. A NAR is not hashed on its way
// out: whoever takes it does that. One that has not the size that the store
// promised is cut off, which clients notice.
//
// Ranges are of NARs that are not compressed. Where the store's objects are files
// of this machine, only what is in the range is read of them.
//
// Each request takes memory of its own that does not depend on the object, but
// for listings, which take some hundred bytes for each file and of which only a
// few are made at a time. So are compressed NARs, for which there is a limit of
// their own.
package cacheserver
