// Package optimise saves space in a store directory: files of equal contents
// become hard links of one another, or share their blocks.
//
// As with Nix there is a directory .links beside the objects, in which each
// file has a link named by the hash of its archive, so that one that is not
// executable never shares an inode with one that is. The links are only
// an index: whoever deletes them loses nothing but the knowledge. Going through
// a whole store, files whose size no other file has are passed over: they
// have no equal, and often are the large ones.
//
// # Hard links and shared blocks
//
// A file is replaced by one rename, after everything else about it is done. Whoever
// is killed leaves at most a file …-strata-tmp-link-…, which a garbage collection removes,
// and one directory with another mode and time than it should have, which the
// next run over its object mends.
//
// On a file system that can (btrfs, xfs) files may share blocks instead, and stay files of
// their own. The kernel compares them itself then, and nothing that anybody sees
// changes ([Reflink]). Hard links save memory too, since equal files are cached once.
//
// # Layered stores
//
// In an upper layer files are found, read and compared in the layer itself
// ([Options.Layer]), and replaced through the merged directory, where the kernel hears of
// it. What a lower has is not looked at: to make a link of a lower's file would copy it up.
//
// Source: what `nix-store --optimise` of 2.34 does; the Nix manual,
// "auto-optimise-store".
package optimise
