// Package nixdb is Nix's own database of valid paths: SQLite, schema version 10,
// in the directory <state>/db. Stock Nix processes may use the same files at the
// same moment.
//
// A [DB] keeps a few connections and gives them back when nobody has asked for
// a while ([DB.Release] does it at once). Before every request it looks whether
// the file is still the one that is open, and opens what is there now if not:
// stores are deleted and made anew under a running daemon. Each request is one
// transaction, and each batch of answers is of one moment.
//
// Files in the directory:
//
//	db.sqlite        the database; db.sqlite-wal, -shm and -journal are SQLite's
//	schema           "10"
//	big-lock         shared by all who have the store open, exclusive for a migration
//	reserved         bytes to be freed when a collection must run on a full disk
//
// What will bite:
//
//  1. Nobody may open db.sqlite as a file in a process that has a DB on it:
//     closing any descriptor of it drops all POSIX locks that SQLite holds.
//  2. Writers exclude each other, also over process boundaries. [DB.Load]
//     holds the writer's place while it asks its input for more.
//  3. A read-only DB changes nothing on disk, not even a lock file. Changes that
//     still lie in a write-ahead log need its -shm file to be read; without it
//     there is a [LogError]. When others keep readers out for longer than a minute
//     that is [ErrBusy]; who writes waits for as long as the context lets him.
//  4. A row that cannot be understood is a [RowError] of the whole request: no
//     answer is better than a wrong one.
//
// Source of the format: src/libstore/schema.sql, ca-specific-schema.sql and
// local-store.cc of Nix 2.34, for the facts.
package nixdb
