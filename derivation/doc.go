// Package derivation has store derivations: the .drv files, their outputs and
// output paths, and the derived paths by which clients name what they want.
package derivation
