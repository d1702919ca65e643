// Package nar reads, writes, unpacks and inspects Nix archives.
//
// A Nix archive (NAR) is the one serialisation of a file system object that Nix
// hashes: a regular file with an executable bit, a symlink, or a directory of
// those, and nothing else. Each tree has exactly one valid archive; this
// package accepts only that one. The format is specified in the Nix manual,
// "Nix Archive (NAR) format" (doc/manual/source/protocols/nix-archive).
//
//	Reader, Copy     parse a stream; Find and List look into it
//	Writer           make an archive from events
//	Dump, DumpRange  file system to archive, or to a part of it
//	Restore          archive to file system, with canonical metadata
//	Canonicalise     canonical metadata for a tree that is there already
//	RemoveTree       delete such a tree again
//	Listing          the ".ls" JSON of a binary cache; List and ListTree make one
//	GitHash          the Git object id of an archived tree
//	refscan          (subpackage) search a stream for store path hashes
//
// # Where an archive ends
//
// Archives are embedded in other streams, in the worker protocol and in the
// export format. Everything here that reads one therefore takes exactly its
// bytes from the io.Reader it is given, and not one more. Over a plain
// io.Reader that costs about five small reads for each entry, so a reader
// backed by system calls should be wrapped in a *bufio.Reader of 64 KiB or
// more: its buffer is recognised and used in place, and what follows the
// archive stays in it for the caller.
//
// # Limits
//
// A name has 1 to 255 bytes; a symlink target 1 to 4095; a file at most 2^63-1
// bytes; and an object lies at most 63 directories below the root (MaxDepth).
// They are those of Nix 2.34 (src/libutil/archive.cc). There is no limit on the
// length of a whole path: everything here works relative to open directories,
// so that PATH_MAX does not matter. Memory is constant, but for List
// (proportional to the number of entries) and GitHash (the entries of the
// directories that are open).
//
// # Caveats
//
//   - Names are bytes, not text. They need not be UTF-8; only the JSON listing
//     insists on that.
//   - Upstream's case hack for macOS is not implemented.
//   - An archive is checked as it streams by. What a consumer got before the
//     error is not to be trusted: the caller discards it.
package nar
