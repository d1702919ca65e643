// Package sandbox runs one builder's process, apart from everything else, and
// sees to it that nothing of it is left when it has ended. It knows processes,
// users and mounts, and nothing of Nix stores.
//
//	user, err := users.TryAcquire(sandbox.Want{})     // ErrNoneFree: later
//	defer user.Release()
//	p, err := sandbox.Start(ctx, sandbox.Spec{
//		Path: "/nix/store/…-bash/bin/bash", Args: []string{"bash", "-e", "…"}, Env: env, Dir: "/build",
//		Output: slave, User: user,
//		Isolation: &sandbox.Isolation{Mounts: []sandbox.Mount{
//			{Kind: sandbox.Own, Source: chroot + "/nix/store", Target: "/nix/store"},
//			{Kind: sandbox.Own, Source: tmp, Target: "/build"},
//			{Kind: sandbox.ReadOnly, Source: real, Target: "/nix/store/…-bash"},
//		}},
//	})
//	exit, err := p.Wait()
//
// The namespaces are bubblewrap's (the program bwrap). Around it stand two short
// programs, which are this very executable started again under other names; see
// stage.go. Any program that imports this package therefore serves as them, and
// its file must be executable by the build users.
//
//	keeper   outside: makes the mounts, starts bwrap, waits for the builder, kills
//	bwrap    new user, mount, pid, ipc, uts, network namespaces; no capabilities
//	entry    inside: limits, personality, system call filter; becomes the builder
//
// What is sure:
//
//  1. When Wait returns, no process of the builder is left. In a sandbox that is
//     the kernel's doing: the builder is process 1 of its pid namespace. Without
//     one it is that of the build user, who owns nothing else; or of the build's
//     cgroup; or, weakest, of the keeper, to whom all orphans come.
//  2. When this process dies, however it dies, so does the builder: the keeper
//     sees the end of its connection, and what is inside sees that of the keeper.
//  3. Start returns when the builder has been executed, or with the reason why it
//     was not: [ExecError] is the builder's fault, everything else is not.
//
// What bites: an executable that is replaced or removed under a running program
// is no problem, but one that build users may not execute is; and standard
// output of a builder without a sandbox may be held open by a process that is
// not a descendant of it, so wait for the process and not for the end of its log.
package sandbox
