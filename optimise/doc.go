// Package optimise saves space in a store directory: files of equal contents
// become hard links of one another.
//
// As with Nix there is a directory .links beside the objects, in which each
// file has a link named by the hash of its archive, so that one that is not
// executable never shares an inode with one that is. The links are only
// an index: whoever deletes them loses nothing but the knowledge.
//
// A file is replaced by one rename, after everything else about it is done. Whoever
// is killed leaves at most a file .tmp-link-…, which a garbage collection removes,
// and one directory with another mode and time than it should have, which the
// next run over its object mends.
//
// Source: what `nix-store --optimise` of 2.34 does; the Nix manual,
// "auto-optimise-store".
package optimise
