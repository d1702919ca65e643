// Package remote builds derivations on other machines.
//
// Which machines there are says the setting builders, line by line
// ([ParseMachines]). A [Farm] is the machines as one request sees them: asked for a place for a
// derivation, it gives the least loaded machine that is of the right kind, or says that there
// is none, or none just now. A [Place] then copies there what the derivation needs,
// has it built, and copies the outputs back.
//
// How busy machines are is kept in files of the state directory, current-load/, one
// for each job that a machine takes at once. Whoever has a place has its file locked, in
// the way of Nix, so that all processes of a machine count each other's builds.
//
// A [Hook] is the same by a program of the administrator (the setting build-hook).
//
// Source: the Nix manual, "Remote Builds"; src/nix/build-remote/build-remote.cc and
// src/libstore/machines.cc of Nix, for the facts.
package remote
