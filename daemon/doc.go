// Package daemon lets clients reach a store: it owns sockets and connections,
// finds out who is at the other end, and hands each connection to the worker
// protocol.
//
//	l, err := daemon.Listen("/nix/var/nix/daemon-socket/socket")
//	s := daemon.New(daemon.Options{Store: st, Version: v, Users: users, Log: log})
//	err = s.Serve(ctx, l) // until ctx ends; then drains
//
// # What will bite
//
//   - Serve outlives its context by up to Options.DrainTimeout: operations that
//     are under way are let finish, connections between two operations are
//     closed at once.
//   - The store is shared by all connections and belongs to the caller, who may
//     close it when Serve has returned.
//   - An operation whose client has gone is cancelled. The kernel says so only
//     when the client has closed both directions: one that has merely said that
//     it will send no more still gets its answer.
//   - A socket that systemd passed is never removed; one that Listen made is
//     removed by Close if nobody has replaced it.
package daemon
