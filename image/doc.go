// Package image shows a lower store read-only at a directory: an EROFS or
// squashfs image, or a plain directory as a bind mount.
//
//	m, err := image.Mount(ctx, image.Options{Source: "base.erofs", Target: "/run/strata/base"})
//	…
//	err = m.Unmount(ctx, false)
//
// EROFS is mounted straight from the file where the kernel can (Linux 6.12,
// CONFIG_EROFS_FS_BACKED_BY_FILE), otherwise, as squashfs always, through a
// loop device that goes away with the mount.
//
// What will bite:
//
//  1. Mounting an image needs root of the first user namespace. A bind mount
//     of a directory works in every namespace.
//  2. The kernel's image drivers are not made for malicious images. Check where
//     an image came from, by signature or by hash, before mounting it.
//  3. The file must not be changed while it is mounted. Replacing it by rename
//     is fine: the mount keeps the old one.
//  4. An image is a file system of its own and one level of no stack: an
//     overlay over it may be stacked once more.
package image
