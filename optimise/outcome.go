package optimise

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/storepath"
)

// Reflink says when files share blocks rather than an inode.
type Reflink int

// The choices.
const (
	// Auto makes hard links, and shares blocks where there can be no more of them.
	Auto Reflink = iota
	// Always shares blocks. A file system that cannot is an error.
	Always
	// Never makes hard links or nothing.
	Never
)

// ParseReflink reads "auto", "always" or "never".
func ParseReflink(text string) (Reflink, error) {
	for r, name := range []string{"auto", "always", "never"} {
		if text == name {
			return Reflink(r), nil
		}
	}
	return 0, fmt.Errorf("'%.40s' is neither auto, always nor never", text)
}

// String is what ParseReflink reads.
func (r Reflink) String() string { return [...]string{"auto", "always", "never"}[r] }

// Stats count what was done, or would be.
type Stats struct {
	Files  uint64 `json:"linked"` // that became links of others
	Shared uint64 `json:"shared"` // that share blocks with others
	Bytes  uint64 `json:"bytes"`  // that this gave back to the disk
}

// Add adds up.
func (s *Stats) Add(o Stats) {
	s.Files += o.Files
	s.Shared += o.Shared
	s.Bytes += o.Bytes
}

// Request says what a store is to do.
type Request struct {
	// DryRun changes nothing, and tells what would be.
	DryRun  bool
	Reflink Reflink
	// Skip are paths that are passed over.
	Skip storepath.Set
}

// Outcome is what was done, or would be. Its JSON form is described in doc/formats/cli-json.md.
type Outcome struct {
	// Dropped are copies in an upper layer of objects that a lower has, DroppedBytes the space
	// that they took; InUse are those that had to stay since somebody uses them.
	Dropped      uint64 `json:"dropped"`
	DroppedBytes uint64 `json:"droppedBytes"`
	InUse        uint64 `json:"inUse"`
	Stats
}

// Optimiser is a store that can be told how to optimise; see also store.Optimiser.
type Optimiser interface {
	// OptimiseWith may be interrupted at any time. After an error the outcome says what was
	// done until then.
	OptimiseWith(ctx context.Context, r Request) (Outcome, error)
}
