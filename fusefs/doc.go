// Package fusefs shows named, immutable trees in one directory through FUSE. It
// knows the kernel and nothing of stores: what is shown comes from a [Source].
//
//	c, err := fusefs.Mount(fusefs.MountOptions{Target: dir})   // needs /dev/fuse
//	err = fusefs.Serve(ctx, c, source, fusefs.ServeOptions{})  // until unmounted
//
// # Numbers instead of memory
//
// The kernel knows each file by a number that the server gave out. Here the number
// says by itself what is meant: which object, and which node of its tree (see [NodeID]).
// So nothing is remembered per file, forgetting costs nothing, and a process that
// takes the connection over understands what its predecessor gave out, as long as the Source of
// both gives objects the same numbers.
//
// # Taking over
//
// The connection is an open file. Whoever else has it open keeps the mount alive while no one
// serves: programs wait. Serve with TakeOver asks the kernel to send again what a
// process that is gone had read and not answered (Linux 6.9; before, such requests wait until
// their program is killed). No two processes may serve one connection.
//
// # What the kernel does by itself
//
// Trees never change, so names, attributes, directory listings and file contents are kept
// by the kernel for as long as it likes. open, close, opendir and closedir never get here, so
// that a warm file costs about what it costs on a disk. What grows is the root: a name that is
// not there is asked for each time, and [Conn.RootChanged] drops the kernel's listing of it.
//
// # What will bite
//
//  1. A process that serves a mount must not use it: not through the
//     runtime (a page fault on a mapped file of the mount stops a thread that may be needed to
//     answer it), and not by closing the last reference of a directory in it.
//  2. A request can take as long as the Source wants. A signal to the program that waits cancels
//     the request's context.
//  3. When the last copy of the connection is closed, everything in the mount is ENOTCONN.
//
// Source of the protocol: include/uapi/linux/fuse.h and fs/fuse of Linux 6.18.
package fusefs
