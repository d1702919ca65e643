package nar

// FileFrame gives what stands before and after the contents of a regular file
// in an archive that holds nothing else: for callers that hash many files and
// read them themselves.
func FileFrame(executable bool, size int64) (before, after []byte) {
	before = appendRegular(appendOpen(nil), executable, size)
	return before, appendClose(appendPadding(nil, size), 0)
}

// SymlinkArchive is the archive of a symlink.
func SymlinkArchive(target string) []byte {
	return appendClose(appendSymlink(appendOpen(nil), target), 0)
}
