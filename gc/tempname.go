package gc

// TempName is the entry of a store directory in which objects are unpacked. It is spelled as a
// store path so that a temporary root keeps it from every collector, Nix's included. A name
// like those of Nix's own temporary directories, "tmp-…" and a lock, does not: Nix looks
// whether it can have the lock, lets go of it, and deletes. Who locks the directory in between
// loses what is in it.
const TempName = "00000000000000000000000000000000-strata.tmp"
