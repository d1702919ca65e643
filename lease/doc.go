// Package lease lets many consumers of one lower store tell its owner what they
// use, without any of them being able to write to that store.
//
// The owner names a place (a directory, which may be on NFS, or a prefix of an
// object storage) and opts in by writing its terms there ([Place.Init]). Each
// consumer publishes one small object in it: which store objects of the lower it
// leans on, until when ([Keeper]). A garbage collection of the lower takes the
// leases that count for roots ([Place.Roots]), and says in the same place that it is
// at work ([Place.Collect]), so that a consumer does not begin to lean on what is
// just being deleted.
//
// doc/formats/lease.md describes the objects, and says why this is free of races.
//
// # What holds
//
//  1. Nothing is published in a place whose owner has not written terms, and
//     nothing is collected by one either: a file system that is not mounted looks
//     like an empty directory, and no leases are a licence to delete.
//  2. A lease counts until it has expired, then for the grace period of the terms,
//     then for the skew that clocks are allowed.
//  3. A lease that cannot be read is an error that names it, never "no roots".
//
// # What will bite
//
// Roots keep their closures, so a lease lists what is not referred to by another
// path of it. Whoever wants to know all that a consumer uses has to walk.
package lease
