// Package substitute gets store objects from other stores instead of building
// them: it knows the sources, asks them in sets, plans whole closures, and has
// a store import what it found.
//
// A [Pool] opens sources by URI, once, for as long as a process lives. An
// [Engine] serves one store, the destination; all views of that store share it,
// so that what two clients want at once is fetched once and both see how far it is.
//
//	found, err := engine.Plan(ctx, wanted)            // what would come, and how much
//	results, err := engine.Substitute(ctx, wanted, o) // make it valid
//
// What is asked: the closure of what is wanted, level by level. For each level
// the destination says what is valid, in one request; then the sources are asked
// for the rest, each at most once for a level, in the order of their priority, the
// next one for what those before it do not have.
//
// What is trusted: an info that no trusted key has signed is passed over, unless
// the path follows from its contents, or the source is trusted, or signatures are not
// required. Contents are compared with their info by the destination, before
// anything can see them ([store.Importer]).
//
// What fails: a source that cannot be asked is told once and not asked again in
// the same request; the next one is. An object whose source fails on the way, or
// sends something else, comes from the next one. What cannot be had fails what
// refers to it, and nothing else.
//
// Source of the rules: what stock Nix 2.34.8 does with `substituters`, `fallback`,
// `require-sigs` and `max-substitution-jobs`.
package substitute
