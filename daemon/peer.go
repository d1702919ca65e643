package daemon

import (
	"net"

	"golang.org/x/sys/unix"
)

// Peer is who opened a connection, as the kernel vouches for it.
type Peer struct {
	PID      int // as seen from our PID namespace; 0 when it is not visible there
	UID, GID uint32
}

// peerOf asks the kernel; false when the connection is not a unix socket.
func peerOf(c net.Conn) (Peer, bool) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}, false
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return Peer{}, false
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || credErr != nil {
		return Peer{}, false
	}
	return Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}, true
}
