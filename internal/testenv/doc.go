// Package testenv gives tests what they need from outside the repository:
// privileges, kernel features, tools, stock Nix in several versions, real
// input, the strata binary.
//
// Each requirement is one call at the top of a test. When the machine does not
// meet it the test is skipped with the reason, and `make test` lists the
// reasons at its end. With STRATA_TEST_NO_SKIP=1, as in CI, the same call fails
// the test instead, so that nothing is left out unnoticed.
//
//	func TestStockClientAddsFile(t *testing.T) {
//		nix := testenv.Nix(t, "2.34")
//		path := nix.Run(t, "nix-store", "--add", nix.WriteFile(t, "hello", "hello\n"))
//		...
//	}
//
// What takes long to make (Debian trees that hold Nix, the corpus, the binary)
// lies in a cache outside the source tree, see [CacheDir]. An entry is built in
// a private directory under a file lock and renamed into place when complete,
// so concurrent test packages share one build and never see half of one.
//
// Tests that mount do it in a mount namespace of their own, see [Isolate]; no
// mount made through this package outlives the process it was made for.
//
// Caveat: an importing binary that is started under one of this package's
// private argv[0] names does that duty in an init function and never reaches
// main. Only tests and the programs under tools/ may import it.
package testenv
