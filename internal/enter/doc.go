// Package enter runs a command in namespaces of its own together with a server
// that it needs, as if it had been started directly: terminal, job control, pipes,
// inherited files, exit status and signals are the command's.
//
// # Processes
//
//	shell ──► supervisor ──┬─► server    new namespaces; makes mounts, then serves
//	                       └─► command   started by the server, as a child of the supervisor
//
// The supervisor, [Supervise], is what the user has started. The server is the same
// program again. When it is ready it starts the command in its own namespaces, but as
// its sibling (CLONE_PARENT) and in the supervisor's process group: so the command has
// the terminal as it would have without us, and whoever waits for the supervisor
// learns when the command stops. The server has a process group of its own, and hears
// nothing of Ctrl-C and Ctrl-Z.
//
// When the command has ended, or the supervisor is gone, the server ends all other
// processes in its mount namespace ([EndOthers]), takes everything down, and ends. The
// last process takes the namespaces with it, and all that is mounted in them.
//
// # What will bite
//
//  1. The command's user namespace, if it has one, is not the server's: in its own it
//     has its usual ids and no capabilities.
//  2. Processes that the command leaves behind are ended with it, since what
//     they run from goes.
//  3. If the server dies, the command goes on; its mounts stay as long as it does.
package enter
