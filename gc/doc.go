// Package gc finds what a store must keep and deletes the rest.
//
// It works on parts that a store hands to it ([Parts]) and knows no kind of
// store. Roots are symlinks under the state directory (links.go), the paths that
// running processes use (processes.go), wherever they see the store (places.go), and the
// temporary roots of processes that are at work on the store (temproots.go).
//
// A collection shuts nobody out. While it runs, clients that want a path kept
// say so over a socket and are answered when the path is safe or gone
// (rootserver.go): that is Nix's protocol, so stock processes and strata can
// work and collect on one store at the same moment.
//
//   - gc.lock is held exclusively by a collection; whoever adds a temporary
//     root holds it shared for that moment, or, if it cannot, uses the socket.
//   - temproots/<pid> is locked by its owner as long as its roots count.
//   - Roots by hash part: a root keeps <path>, and <path>.lock and .chroot too.
//
// Deleting goes in batches, referrers first (delete.go): rows in one transaction that
// is on disk, then one rename for each object into a directory of the collection's own
// (trash.go), which is what clients wait for; workers delete what lies there. A crash
// leaves valid paths that are whole, and garbage: objects without rows, or that directory,
// whose name is that of a store path that is not valid, for the next collection of any Nix.
//
// What is freed is what leaves the disk: blocks, of files with several names with the
// last of them. Under a limit, or to say it beforehand, objects are measured and put
// into an account that knows names that are gone already (footprint.go).
//
// Source of the protocol: src/libstore/gc.cc of Nix, for the facts.
package gc
