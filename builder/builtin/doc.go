// Package builtin has the builders that are a part of Nix: builtin:fetchurl,
// builtin:buildenv and builtin:unpack-channel.
//
// They run in this process, with its rights, although what they are told comes
// from whoever may build something here. So they see the file system as a
// builder would, through Build.Visible and Build.Outside: a symlink that leads
// elsewhere leads nowhere. What they unpack stays in the output, whatever it is
// named, and has limits (MaxUnpacked, MaxEntries).
//
// What an output has to look like, and whether its hash is right, is not
// checked here: outputs are registered like those of every builder.
package builtin
