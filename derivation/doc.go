// Package derivation has store derivations: the .drv files, their outputs and
// output paths, the hash of a derivation modulo its fixed-output inputs, and
// the derived paths by which clients name what they want.
//
// A [Derivation] is read from its file by [Parse] and written by its method
// ATerm; what [Parse] takes comes back byte for byte if it was in canonical
// form, which is the only form that Nix writes. Neither looks at the store. A
// [Hasher] does: it reads the derivations that one depends on and gives its
// hash modulo, from which the paths of input-addressed outputs follow; see
// [Hasher.Check] for the test that a derivation is what it claims to be.
//
// Things that bite:
//
//  1. The name of a derivation is not in its file, it comes from its store path
//     ([NameFromPath]), and the paths of its outputs depend on it.
//  2. Structured attributes are the variable __json of Env, as its text. Nix
//     parses it and prints it again when it hashes; for every text that Nix has
//     written itself that is the same.
//  3. Nothing here asks which experimental features are on. See
//     [Derivation.Features] for those that a derivation needs.
//
// Source of the formats: the Nix manual, "Derivation (ATerm format)" and "Store
// derivation and deriving path"; the hash modulo, section "Input-addressing
// derivation outputs".
package derivation
