// Package mount wraps what strata needs of the kernel's mount interface: file
// system contexts (fsopen, fspick), detached mounts, the mount table, the
// identity of one mount, and taking a mount down without touching anybody
// else's. Packages overlayfs and image are built on it; it knows neither.
//
// # Identity
//
// A mount has two numbers. Its mount id, shown in /proc/self/mountinfo, is
// reused as soon as the mount is gone. Its unique id (statx
// STATX_MNT_ID_UNIQUE, Linux 6.8) never is, until the next boot. Both exist
// from fsmount(2) on and do not change when the mount is attached, so a caller
// can write down what it is about to attach before it attaches it: see
// [Detached.ID] and [Record]. A crash at any instant then leaves either no
// mount or a mount that somebody recorded.
//
// # What will bite
//
//  1. An open file, O_PATH included, inside a mount makes umount(2) fail with
//     EBUSY. Nothing here keeps one after it returns.
//  2. Mount points can be stacked. The order of lines in mountinfo says
//     nothing about who is on top (MOVE_MOUNT_BENEATH puts a new mount below
//     an old one); only the chain of parent ids does. [StackAt] follows it.
//  3. Between the check that a mount is ours and the umount(2) by path somebody
//     may mount over it. The kernel has no unmount by mount id, and an fd that
//     would pin the mount makes it busy. The window is two system calls wide.
//  4. mountinfo lines have no useful length limit: an overlay of 500 lowers
//     with long names has a line of megabytes. Readers built on a
//     bufio.Scanner stop at 64 KiB.
package mount
