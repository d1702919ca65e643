// Package output makes store objects of what a builder left.
//
// [Register] takes the outputs of one derivation where they lie on disk, the
// scratch paths, and ends with valid paths, or with a [Failure] that says in
// upstream's words why they cannot be. In between:
//
//  1. Each output is there, belongs to who built it, gets canonical metadata,
//     and is read once: hashed, and searched for the hash parts of everything that
//     it could refer to. What a build without sandbox of the network made is copied
//     in the same go, since something may still hold its files open for writing.
//  2. Outputs that refer to each other are put in order, and the final path of each
//     is computed: the derivation says it, or it follows from the contents modulo
//     references to itself.
//  3. The attributes of the derivation are asked whether such outputs may be.
//  4. Where scratch and final paths differ, hash parts are rewritten on the way to
//     the store directory; else objects are renamed. All are registered in one
//     transaction, then their realisations.
//
// In check mode, nothing is put anywhere: the outputs are compared with those that
// are valid.
//
// Rewriting happens in archives, as upstream's does: a file whose name has the hash
// part gets another name, and the build fails if it thereby would have to stand
// elsewhere among its siblings.
//
// Source: upstream's src/libstore/unix/build/derivation-builder.cc
// (registerOutputs) and src/libstore/build/derivation-check.cc, 2.34.
package output
