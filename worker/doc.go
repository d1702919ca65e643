// Package worker speaks the worker protocol, by which Nix's commands talk to
// its daemon: both ends of it, from protocol 1.18 (server) and 1.21 (client)
// up to 1.38.
//
//	Serve      one connection of a client, on top of any store
//	Client     a store that is reached through such a connection
//
// Everything that the protocol can ask for has one row in the table in ops.go.
// The function that answers it and the method of Client that asks it stand side
// by side in the file of the family, op_*.go.
//
// # A conversation
//
// Both sides tell their version, the lower one counts. Then the client sends
// requests, each a number and what belongs to it, and the server answers each
// in order: first any number of messages about what it does (log lines,
// activities and their results), then the end of those, then the answer; or
// instead of an end, an error. All integers have 64 bits, little-endian; see
// package wire.
//
// One operation is our own: QueryClosure, an extension that is used only when both
// sides know it (doc/formats/worker-closure.md).
//
// # What will bite
//
//   - Requests may come before earlier ones are answered. What has been answered
//     is sent when there is nothing more to read, or with the messages of the
//     operation under way, at most [flushDelay] later.
//   - A request whose end cannot be found (a stream that breaks off, an operation
//     with an unknown number) ends the connection, after an error. One that was
//     read to its end but makes no sense only gets the error.
//   - An upload that fails is answered at once; what the client still sends of it
//     is read and dropped, so that the connection stays good.
//   - NarFromPath has no way to tell an error once the archive has begun: the
//     connection ends early.
//
// Source of the protocol: the Nix manual has no chapter on it; numbers and order
// of fields are those that stock clients and daemons of Nix 2.8, 2.26 and 2.34
// send (src/libstore/{daemon,remote-store,worker-protocol}.cc).
package worker
