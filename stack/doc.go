// Package stack brings up, looks after and takes down a whole layered store:
// images, the overlay mount, the store over it, and what clients expect to find
// where.
//
// # Use
//
//	cfg, err := stack.ReadFile("strata.toml")            // or made of flags
//	st, err := stack.Assemble(ctx, cfg, stack.Parts{…})  // st.Store is what a daemon serves
//	err = st.Announce(sockets)                           // others may look now
//	…
//	err = st.TakeDown(ctx, stack.TakeDownOptions{})
//
// [Find] and [List] give the stacks of this machine to those who look after
// them, [Down] ends one from outside, and [Status] is how one does.
//
// # Places
//
// Everything that is written lies in one directory, [Upper.Dir]:
//
//	layer/          the upper layer of the overlay: objects
//	work/           the kernel's scratch directory
//	state/          what Nix has in /nix/var/nix: database, roots, profiles, daemon socket
//	log/            build logs, /nix/var/log/nix
//	lowers/         mount points of images, and of lowers that would else be hidden
//	made.json       for which lowers the upper was made
//	pivot.journal   a move to other lowers that is under way
//	run.json        which process serves the stack, and what it has mounted
//	tmpfs/          layer, work, state and log of an upper in memory
//	lock            held by that process
//	control         socket: status, refresh, gc, pivot
//	told.json       where owners of lowers were told what is used of them
//	roots/          links of which the daemons of lowers know
//
// The upper is whole in itself: it can be moved, copied and kept, and a machine can
// have many.
//
// # What clients see
//
// A store that is mounted at /nix/store (below [Config.Root]) takes its state
// along: it shows at /nix/var/nix, read-only but for gcroots and profiles, and
// /nix/var/log/nix. So stock clients find the socket, build logs and their
// profiles where they look for them, roots that people make by hand count, and
// none of it stays behind. That the state is read-only there is what keeps root
// safe: Nix run by root without NIX_REMOTE opens a store whose state it can write
// to by itself, as a plain one, and a garbage collection of it would take all
// lower objects for garbage. As it is, Nix turns to the daemon.
//
// # Crashes
//
// Each mount is written down in run.json before it is attached. What a killed
// process left is recognised by the kernel's number of the mount, which is never
// used twice. The next Assemble takes over mounts that are just what it would
// make, since programs may still run from them, and takes the others down. What
// it did not make it does not touch.
//
// # What will bite
//
//  1. A mount made in a user namespace is seen only there; see [Run.Enter].
//  2. A mount that is busy when the stack is taken down stays, with its record.
//     Lazily detached, it lives on with those who use it; then the upper must not
//     be mounted again until they have ended, and Assemble refuses to.
package stack
