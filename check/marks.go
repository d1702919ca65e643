package check

import (
	"path/filepath"

	"github.com/strata-nix/strata/overlayfs"
)

// isWhiteout looks closely at what may be a whiteout of the upper.
func (x *examination) isWhiteout(l *line) bool {
	is, err := overlayfs.IsWhiteout(filepath.Join(x.Layers[0].Dir, l.name))
	return is && err == nil
}

// isOpaque tells whether a directory of the upper hides what is below. One that cannot
// be asked does, for what it matters.
func (x *examination) isOpaque(l *line) bool {
	opaque, err := overlayfs.IsOpaque(filepath.Join(x.Layers[0].Dir, l.name))
	return opaque || err != nil
}
