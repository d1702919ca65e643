package sandbox

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ownProgram is the program that is running, also when its file has been replaced.
const ownProgram = "/proc/self/exe"

// stageProgram is what to execute in order to start a stage: a small program that is
// a part of this one, or this one itself if it was built without.
var stageProgram = sync.OnceValue(func() string {
	if len(embeddedStage) == 0 {
		return ownProgram
	}
	path, err := unfold(embeddedStage)
	if err != nil {
		return ownProgram // it can do the same, but takes longer to start
	}
	return path
})

// unfold puts a program into a file in memory that nobody can change any more, and
// that lasts as long as this process.
func unfold(program []byte) (path string, err error) {
	const name = "strata-stage"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 all were executable
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return "", fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.WriteAt(program, 0); err != nil {
		return "", err
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	// The number must be none of those that a stage is started with.
	const low = 100
	kept, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, low)
	if err != nil {
		return "", fmt.Errorf("dup: %w", err)
	}
	path = fmt.Sprintf("/proc/self/fd/%d", kept)
	if err := unix.Access(path, unix.X_OK); err != nil {
		unix.Close(kept)
		return "", fmt.Errorf("execute a file in memory: %w", err)
	}
	return path, nil
}
