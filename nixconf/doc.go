// Package nixconf reads Nix's configuration: nix.conf, the user's files, and
// NIX_CONFIG.
//
// A file has lines "name = value"; "#" begins a comment wherever it stands; the
// words of a value are joined by single blanks. "include FILE" and "!include FILE"
// (which may be missing) stand for what is in FILE, named relative to the file
// that includes it. A later value replaces an earlier one; "extra-NAME" appends to
// settings that are lists.
//
// [Load] does what a Nix program does at its start: the system's nix.conf, then
// the user's files, then NIX_CONFIG. The daemon is a program like any other in
// this: the user's files are those of the user that it runs as. A [Config] says
// for each value which file and line it comes from, and its errors do too.
//
// What bites:
//
//  1. Values of lists are appended to their defaults, and defaults are the business
//     of whoever obeys a setting: they are an argument of [Config.Strings].
//  2. Settings that belong to an experimental feature are ignored, with a warning,
//     if that is not on by then: the experimental features of a file go before
//     the rest of that file, but not before earlier files.
//  3. A name that Nix does not know is a warning and not an error, so that a newer
//     Nix can share the file.
//
// Source: the Nix manual, "nix.conf"; what is taken and what is refused is as in
// 2.34.8 (src/libutil/configuration.cc, loadConfFile in src/libstore/globals.cc).
package nixconf
