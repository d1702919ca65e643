// Package builder realises derived paths: it makes store objects valid by
// substituting them, or by building the derivations that they are outputs of,
// and all that those need before.
//
// A request is a graph of goals. Goals are looked at in sets: what is new in the
// graph is read, hashed and asked for together, so that the work is linear in
// the number of derivations. One goroutine keeps the graph; others wait for
// substituters, locks and builders, and wake it.
//
// For each output, in this order: is it valid; can it be substituted (for an
// output whose path only a build can tell, its realisation first); else its
// inputs are realised in the same way, the derivation is resolved if it depends
// on paths that only builds can tell, and then built.
//
// How one derivation is built, once its inputs are there, is the business of
// builder/execute; who has what can be substituted, of package substitute.
//
// A [Builder] is shared by the requests of a process on a store: a derivation
// that two of them want is built once, and what the builder says reaches both. It
// is killed when the last of them has left. Processes are kept apart by the
// locks that Nix uses, <output>.lock, and what was valid is asked for again when
// such a lock has been taken.
//
// Failures of builds are results, see [store.BuildResult]. Errors are for what
// concerns the whole request: a store that cannot answer, a canceled context.
package builder
