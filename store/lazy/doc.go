// Package lazy is a store whose objects are all valid at once and arrive when they
// are read: what is valid comes from binary caches, and the store's directory is a FUSE mount
// that fetches an object when somebody looks into it.
//
//	cache, err := lazy.OpenCache(lazy.CacheOptions{Dir: "/var/cache/strata/objects"})
//	s, err := lazy.Open(lazy.Options{Origins: origins, Keys: keys, Cache: cache, Mount: dir})
//	…                                   // s is a store.Store and a store.Directory
//	src, err := s.Objects(stateDir)     // in the process that serves the mount
//	err = fusefs.Serve(ctx, conn, src, fusefs.ServeOptions{})
//
// The two halves may live in different processes. The first half only answers what is valid
// and never touches the mount; the second one is all that the mount needs, and any number of
// processes, one after the other, can be it.
//
// # Where things come from
//
// An [Origin] is a store that can give NARs. What else it can do is found by its type: a
// [Lister] knows an object's tree before its contents are here, an [Indexer] has signed
// indexes, and a [RangeOpener] gives parts of NARs, so that only what is opened is fetched.
// Without an index an object is fetched whole when the first of its files is read, once for all who wait.
//
// # What is believed
//
// An object is valid if an origin that is trusted has it, or one of the trusted keys
// signed its path info, or it is content-addressed and its NAR hash proves it. Not one byte of a file is given to anybody
// before the NAR hash of the whole object was right, or, with an index, the digest that a trusted key signed
// for this file. Symlinks likewise. A listing is not signed: names, sizes and kinds may come
// from it and are compared once the contents are here; an object whose listing lied is gone (ESTALE), and
// looked up anew it is the true one.
//
// # Places
//
// doc/formats/lazy-cache.md describes the directory of a [Cache]. Complete objects are
// plain files there, named as in a store, so that their directory can be a lower of an OverlayFS
// above the mount: warm use then costs what a disk costs.
package lazy
