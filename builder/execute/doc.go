// Package execute turns one derivation into a result: directories, environment,
// sandbox, the builder's process, its log, its limits, hooks, and in the end the
// registration of what it left.
//
// Whoever calls [Executor.Build] has resolved the derivation, has made its
// inputs valid and temporary roots, holds the locks of its outputs, and has a
// slot for it. A build that fails is a result and not an error.
//
// What is on disk meanwhile, with upstream's names where it has them:
//
//	<build-dir>/strata-<pid>-<n>/         0700, locked (flock) while the build runs
//	<build-dir>/strata-<pid>-<n>/build    TMPDIR of a sandboxed builder, its /build (of others it is the one above)
//	<store>/<drv>.chroot/root/…           what the sandbox sees as its own store
//	<log-dir>/drvs/<2>/<rest>[.bz2]       the log
//
// Nothing of it outlives Build, however that ends, but the log, and the build
// directory of a failed build if keep-failed says so. What a process leaves that is
// killed: the next build in the same build-dir by another process removes build
// directories that nobody holds locked (one that is kept has mode 0755); the
// next build of the same derivation removes its .chroot, and so does a garbage
// collection, unless the derivation has a root.
//
// What bites:
//
//  1. All of the store is reached through its real directory, the merged one of a
//     layered store, and nothing in there stays open after Build.
//  2. The builder may do anything with what it can write to until it is dead. So
//     paths below its directories are never followed by name before that: files are
//     made relative to an open directory, and trees removed by nar.RemoveTree.
package execute
