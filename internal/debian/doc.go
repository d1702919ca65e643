// Package debian reads a Debian archive: which mirror this machine uses, the
// package indices of a suite, and the contents of a .deb. Tests get stock Nix
// from there, and the corpus its objects.
//
// The archive is found in the machine's own APT sources; no host is named
// here. Downloads are kept in a directory of the caller's choice and come one
// after the other, with a pause, since the mirror belongs to somebody else.
package debian
