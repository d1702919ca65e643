// Package overlayfs holds what strata knows about OverlayFS: making a mount,
// checking one that somebody else made, making changes of a lower visible,
// taking a mount down, and the marks (whiteouts, opaque directories) in an
// upper layer.
//
// # Use
//
//	m, err := overlayfs.Mount(ctx, overlayfs.Options{
//		Lowers: []string{"/mnt/base/nix/store"}, // first wins
//		Upper:  "/var/lib/strata/upper", Work: "/var/lib/strata/work",
//		Target: "/nix/store",
//		BeforeAttach: func(r overlayfs.Record) error { return save(r) },
//	})
//	…
//	err = m.Refresh(ctx)               // the lower has grown
//	err = m.Unmount(ctx, overlayfs.UnmountOptions{})
//
// [Verify] answers whether the mount at a target is the expected one, [Inspect]
// what is there, [Record.Recognise] whether a mount found after a crash is the
// one that was recorded. A [Remover] takes the upper's copy of an object away
// and lets the lower's show. Nothing keeps a file open inside the merged
// directory after it returned, except a Remover until it is closed.
//
// # What will bite
//
//  1. A directory that is in the upper and in a lower is merged, unless the
//     upper's is marked opaque. For a store that is never right: two builds of
//     one object may differ, and the mixture is neither. A directory made in
//     the merged root is born opaque if the mount has xino=on (which [Mount]
//     sets), and one that is renamed into the merged root becomes opaque on
//     any mount. A directory made under xino=off or auto is not
//     opaque: as soon as a lower gets the same name, they merge. Run
//     [MarkOpaque] on such an upper while it is not mounted.
//  2. Removing a merged directory while a process has its cwd or an open file
//     inside makes the name ESTALE for everybody until that process ends: the
//     kernel still has the old directory's inode under the lower's identity.
//     It makes no difference whether it is removed through the merged
//     directory or in the upper. A [Remover] finds this out beforehand and
//     leaves the object alone ([ErrInUse]). Opaque directories, files and
//     symbolic links do not have the problem.
//  3. Renaming a lower's or a merged directory is EXDEV. chmod, or opening for
//     writing, of something that is only in a lower copies it up. A copied-up
//     directory holds only what was changed; making it opaque would lose the
//     rest. The kernel's "origin" mark does not tell such a part from a whole:
//     it is also written when a complete directory of the upper is looked up
//     for the first time after a lower gained the same name.
//  4. A name that was looked up while absent, and one whose whiteout was removed
//     in the upper after somebody looked, stays absent until [Refresh]. A
//     name that nobody looked up between the removal and the unlinking of the
//     whiteout is right at once.
//  5. The kernel says only in its log, not in the mount error, why it refuses
//     a combination of layers (CMD_CREATE is EINVAL or ELOOP). Hence the
//     checks that Mount makes itself; see the sentinel errors.
//  6. Two mounts with one upper corrupt it. The kernel only warns. Mount
//     refuses when it can see the other one, which it cannot in another mount
//     namespace, nor after a lazy unmount that still has users.
//  7. The whiteouts of a privileged and of a userxattr mount are the same, the
//     opaque marks are not (trusted.overlay.opaque, user.overlay.opaque). An
//     upper keeps its first kind; see [Options.UserXattr].
//  8. Unmounting an overlay flushes the whole file system of its upper, with
//     everything that others write there: seconds on a busy disk.
package overlayfs
