// Package corpus makes input for stores out of Debian packages: data that
// nobody here wrote, with real file trees, real sizes and a real dependency
// graph. tools/corpus is its command, testenv.Corpus its smallest product.
//
//	Metadata   the paths of whole Debian suites, 10^5 to 10^6, without trees
//	Objects    the trees of some packages, most in several versions
//	Trees      any number of small invented objects
//
// All write a registration: the text that `nix-store --load-db` reads.
//
// A package becomes a store object named <name>-<version> whose references are
// the packages it depends on. As with an input-addressed output of Nix, its
// path depends on the package file and on the paths of its references, so a
// changed dependency changes every path above it. Equal inputs give equal
// output, byte for byte.
package corpus
