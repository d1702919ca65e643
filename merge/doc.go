// Package merge makes one lower store out of layers: a directory or an EROFS
// image with nix/store and nix/var/nix/db in it, whole, verified and published in one
// step.
//
//	plan, err := merge.MakePlan(ctx, layers, merge.Options{})
//	if len(plan.Conflicts) > 0 { … }
//	result, err := plan.WriteDirectory(ctx, "/srv/base", merge.WriteOptions{})
//	result, err := plan.WriteImage(ctx, "/srv/base.erofs", merge.WriteOptions{})
//
// # What gets in
//
// Of each layer its objects are taken, or those that are referred to by what is
// taken, or none. Of layers that have the same path, the first wins; that they have it
// with other contents is a conflict. A path that is referred to and whose object is not
// taken is there with its path info only, and so is what it refers to: the schema wants
// each reference to have a row. Such a store is meant to lie over one that has those
// objects ([Plan.Leaning]).
//
// # The same contents give the same bytes
//
// Objects are written in the order of their paths, rows too; times of registration
// are one time; an image is called by a UUID that follows from its paths and hashes.
//
// # What will bite
//
//  1. Layers must not lose objects meanwhile. Whoever can holds them with temporary
//     roots between planning and writing; an object that is gone is an error.
//  2. A directory and its database are on disk when they get their name, and not before;
//     a killed run leaves a directory .NAME.strata-new beside the target, which the next
//     run for the same target removes.
package merge
