// Package check compares what a store says with what is there, in all of its
// layers, and mends what can be mended.
//
// It works on parts that a store hands to it ([Target]) and knows no kind of store.
//
//	report, err := check.Run(ctx, target, check.Options{Contents: true})
//	for _, f := range report.Findings { … }
//
// What may be found are the classes of the table in class.go: a stable code, what it
// means for whoever uses the store, what would be done about it, and a function that
// looks. Three kinds of functions there are: those that look at one name with what
// each layer has of it (ledger.go), those that look at the contents of one object
// (contents.go), and those that look at one thing as a whole: the database, the
// mount, the roots.
//
// Nothing ends a check but the end of its context. What could not be looked at is
// told beside the findings ([Report.Errors]) and is no finding: nobody knows.
//
// A check goes on beside everything else that happens to a store. It keeps garbage
// collections out, as Nix does, while it compares names and rows, and whatever seems
// wrong is looked at once more before it is said.
//
// Without [Options.Repair] it writes nothing but the journal of a check of contents.
// Repairs go through the store's own operations and never touch a lower; each can be
// killed at any moment, and the next check goes on from there.
package check
