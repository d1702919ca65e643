// Package erofs writes EROFS images: read-only file systems that the kernel
// mounts straight from a file.
//
//	w, err := erofs.NewWriter(file, erofs.Options{Time: 1})
//	err = w.Mkdir("nix", 0o555)
//	err = w.File("hello", 0o444, size, contents)
//	err = w.Leave() // nix
//	err = w.Close(uuid)
//
// The image is written in one pass. Whoever fills it goes through the tree depth
// first, in any order within a directory, and the same calls give the same bytes.
// Memory holds the entries of the directories that are open and, if equal files are to
// become one, 64 bytes for each different file.
//
// What is written is the uncompressed format that every kernel since Linux 5.4 reads:
// the last part of a file lies beside its inode when both fit into one block, and so
// do the entries of small directories and symlinks. There are no extended
// attributes, and all times are one time.
//
// # Layout
//
// Block 0 has the superblock (at 1024) and the inode of the root (at 1152). After it come, as
// they are written, contents of files, block by block, and metadata in segments of 16 to 256 KiB.
// An inode is named by its place, counted from the start of the image in units of
// 32 bytes. What is known only after something was written is put in later: the number of
// names of a file, and in a directory the place of the one above.
//
// Source of the format: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux.
//
// # What will bite
//
//  1. The image is not whole before Close, and not on disk before the caller has
//     called Sync.
//  2. After an error nothing more can be written. Errors of File include those of
//     the reader.
package erofs
