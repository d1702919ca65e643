// Package fileindex says of each file of a store object where in the object's NAR it is and what
// its contents must be, so that a part of the object can be fetched and checked without the rest.
//
//	c, err := fileindex.Scan(archive, nil)             // of a NAR that one has
//	x := &fileindex.Index{Header: …, Contents: c}
//	data, err := x.Encode(dir, key)                    // to lie beside the narinfo
//
//	s, err := fileindex.Parse(dir, name, data)         // from wherever
//	if s.Describes(info) && s.VerifiedBy(keys) {
//		x, err := s.Decode()
//	}
//
// # What is believed
//
// Parse looks at a short header and believes nothing. Who signed the index says that these are the
// contents of the NAR with that hash, as who signs a narinfo says that this NAR is that of the path.
// Nothing is decompressed before Decode, which whoever does not trust the source calls after VerifiedBy.
//
// # What cannot be said wrongly
//
// Where a file lies in a NAR follows from the names, kinds and sizes of all files, so it is computed and not
// stored: no index has files that overlap or lie outside. Names are those that a tree of package fusefs can
// have: none leads anywhere.
//
// doc/formats/file-index.md describes the format.
package fileindex
