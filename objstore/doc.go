// Package objstore is storage of named objects in five calls: a directory, a web
// server, a bucket of an object storage, or memory.
//
// An object is some bytes under a name such as "nar/1w1f….nar.xz". It appears and
// is replaced as a whole: nobody ever sees half of it. Names are checked by
// [CheckName] in every call of every implementation, so that none leads out of
// the storage.
//
// What a particular storage can do beyond the five calls is found by its type,
// through wrappers, with [As].
package objstore
