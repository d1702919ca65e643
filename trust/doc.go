// Package trust knows who is believed: keys that sign store objects
// ([SecretKey], [PublicKey], [Keys]) and users of this machine who connect to a
// daemon ([Users]).
//
// A key is written "<name>:<base64>", a signature likewise; the name says which
// key a signature is to be checked with and vouches for nothing by itself. Keys
// and signatures are Ed25519 in libsodium's layout: 32 bytes of a public key, 64 of
// a secret one (seed, then public key), 64 of a signature.
//
// What is signed is the fingerprint of a path info ([store.PathInfo.Fingerprint]) or
// of a realisation ([store.Realisation.Fingerprint]). An object that is
// content-addressed needs no signature; that is for the caller to see.
//
// Source: the Nix manual, "trusted-public-keys", "nix key generate-secret",
// "trusted-users" and "allowed-users"; for what happens to groups, what
// nix-daemon 2.34.8 does.
package trust
