// Package environment makes what a builder finds when it starts: its variables,
// and the files that lie in its build directory.
//
// A derivation says the former in several ways: as plain variables, as variables
// whose values are passed in files (passAsFile), as structured attributes (the
// files .attrs.json and .attrs.sh), and with graphs of references written to files
// (exportReferencesGraph). [Make] turns all of them into variables and files; the
// one who builds need not know which it was.
//
// Both may hold placeholders of the derivation's own outputs, and the paths of
// outputs that are built elsewhere than where they belong. The caller knows what
// stands for what, see [Environment.Rewrite].
//
// Source of all names, values and forms: src/libstore/unix/build/derivation-builder.cc
// (initEnv), src/libstore/build/derivation-env-desugar.cc,
// src/libstore/parsed-derivations.cc and src/libstore/store-api.cc
// (exportReferences) of 2.34.8.
package environment
