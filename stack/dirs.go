package stack

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// makeDir makes a directory and those above it, for everybody to read: other users
// are clients, whatever the umask of the one who brings a stack up.
func makeDir(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrNotExist) && path != filepath.Dir(path) {
		if err = makeDir(filepath.Dir(path)); err == nil {
			err = os.Mkdir(path, 0o755)
		}
	}
	if err == nil {
		return os.Chmod(path, 0o755) //nolint:gosec // see above
	}
	if st, statErr := os.Stat(path); statErr == nil && st.IsDir() {
		return nil
	}
	return err
}
