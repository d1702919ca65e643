package trust

import (
	"sync"
	"syscall"
	"time"
)

// nameFile remembers which names ids have in a file of accounts, as long as that is the
// same file: a daemon is asked for each connection, mostly about the same few users.
type nameFile struct {
	path string
	// settling is the time in which a file may change twice without a sign of it, on kernels
	// whose clock for files is coarse.
	settling time.Duration

	mu    sync.Mutex
	of    fileState
	names map[uint32]string // also "" for ids that have none
}

// fileState is what changes when a file does.
type fileState struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// maxNames is how many ids are remembered of a file.
const maxNames = 256

// name gives the name that an id has; lookUp finds it in the file.
func (f *nameFile) name(id uint32, lookUp func(uint32) (string, error)) (string, error) {
	var st syscall.Stat_t
	now := time.Now()
	if f == nil || syscall.Stat(f.path, &st) != nil || now.Sub(time.Unix(st.Ctim.Unix())).Abs() < f.settling {
		return lookUp(id)
	}
	state := fileState{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == state {
		if name, known := f.names[id]; known {
			return name, nil
		}
	}
	// What is read now is at least as new as the state. If it is newer, the state that is
	// seen the next time is another one.
	name, err := lookUp(id)
	if err != nil {
		return "", err
	}
	if f.of != state || len(f.names) >= maxNames {
		f.of, f.names = state, map[uint32]string{}
	}
	f.names[id] = name
	return name, nil
}
