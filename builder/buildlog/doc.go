// Package buildlog has the logs of builds: the files in which they are kept, and
// the lines that clients see while a build runs.
//
//	file, err := buildlog.Create(context.WithoutCancel(ctx), logDir, drv, false)
//	lines := buildlog.NewLines(ctx, act, 25)
//	io.Copy(io.MultiWriter(file, lines), builderOutput)
//	lines.Close(); file.Close()
//
// A file holds what the builder wrote, byte for byte. Lines makes of the same
// bytes results of the build's activity, and does what lines say that begin with
// "@nix ": structured messages, in the JSON that stock Nix writes with
// --log-format internal-json.
//
// Source of places and messages: src/libstore/build/derivation-building-goal.cc,
// src/libstore/build/build-log.cc and src/libutil/logging.cc of 2.34.8.
package buildlog
