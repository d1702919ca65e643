// Package binarycache is a store in the form of a binary cache: narinfos and
// compressed NARs as named objects, in a directory, on a web server or in a bucket.
// It reads and writes what stock Nix writes and reads; doc/formats/binary-cache.md
// says what that is.
//
//	objects, err := objstore.NewDirectory("/srv/cache")
//	s, err := binarycache.Open(objects, binarycache.Options{URI: "file:///srv/cache"})
//
// # What is believed
//
// A cache may say anything. What it says of an object is passed on as it is: whoever
// takes the object checks the signature. But a narinfo is about the path that was
// asked for, stays within its cache, and the NAR that is read is the one that it
// promised, or the reader fails at the latest where the NAR should end. A
// [FileError] names the cache, the file, and what is wrong with it.
//
// # What will bite
//
//   - Open asks nothing of the cache, so that a cache which is down can be opened. The
//     first request reads nix-cache-info; while that fails, requests fail.
//   - A narinfo that cannot be understood is a [store.PartialError] of the request
//     for a set: the other answers are there.
//   - There are no locks. When two write narinfos of one path, the last one counts.
//   - Nothing is ever removed. After an error there may be a NAR that no narinfo
//     names.
//   - Signatures are not looked at when something is added, as in Nix: a cache
//     promises nothing, its readers check.
//
// Source: src/libstore/binary-cache-store.cc of Nix 2.34.8, for the facts.
package binarycache
