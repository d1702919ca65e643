// Package pivot moves an upper layer from the lower stores that it was made for to
// others: a new image, a new release, one lower more or fewer.
//
// An upper leans on its lowers. Its objects refer to theirs, its database has the
// metadata of those, its gc roots lead to them. When the lowers are others, some of
// what it leans on is there, some is there with other contents, and some is not there.
//
// # Use
//
//	plan, err := pivot.Make(ctx, parts, options)   // writes nothing
//	job, err := pivot.Begin(ctx, parts, plan, target)
//	err = job.Stage(ctx)                           // copies what is lacking, aside
//	err = job.Commit(ctx, nil)                     // from here on only forward
//	err = job.Finish(ctx)                          // removes what is not needed any more
//
// After a crash [Open] finds the job that was under way, and its [Job.Phase]: before the
// commit it may be gone on with or rolled back, after it only gone on with.
//
// # What the plan decides
//
// What the upper needs is every object that it has itself, everything that one of those
// refers to, and everything that a gc root leads to; with [Options.OnlyLive] only what a
// root leads to. Of each path that is
//
//	in the upper, and in no new lower         stays
//	in the upper, and alike in a new lower    goes from the upper; its row stays (a duplicate)
//	in the upper, and otherwise in a lower    stays, and hides the lower's (a conflict)
//	needed, and alike in a new lower          nothing happens
//	needed, and otherwise in a new lower      gets the row of the new lower (changed)
//	needed, and in no new lower               is copied up from an old one
//	not needed, and in no new lower           loses its row
//
// What is needed and nobody has, neither a new lower nor an old one nor a substituter, is an
// error that lists it ([MissingError]), or goes with all that refers to it
// ([Options.DropMissing]). That a store could not be asked is an error, and never "not there".
//
// # Crashes
//
// Before the commit nothing is written but a journal (doc/formats/pivot-journal.md) and a
// directory with the copies, beside the upper layer. The commit is one write to the journal. All that
// follows can be done again from the journal alone: copies are renamed to their places, marks
// and whiteouts removed, rows rewritten in one transaction, and then, with the new lowers in
// place, duplicates deleted.
//
// # What will bite
//
//  1. Between Make and the end of Commit nobody else may change the upper.
//  2. Commit writes to the upper layer directly. No overlay may be mounted that goes on being
//     used with it, other than one that is read-only and about to go.
package pivot
