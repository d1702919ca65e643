package overlayfs

import (
	"context"
	"fmt"
)

// Aside is an object that goes to another name, in a directory that the caller has
// made through the merged directory, and in which he deletes it later on, also through
// the merged directory.
type Aside struct {
	Removal
	// To is the new name, relative to the merged directory.
	To string
	// Deleted says that the object could only be deleted at once. Removal.Bytes are
	// its own then, and else 0.
	Deleted bool
}

// Aside renames objects, entries of the root of the upper, so that a lower's show
// instead. It is the first half of [Remover.Remove], for whoever wants to have the second
// done by others. What is said of errors and of refreshing there holds here. After an
// interruption those that were not renamed have its error.
func (r *Remover) Aside(ctx context.Context, list []Aside) {
	out, trash := make([]Removal, len(list)), make([]string, len(list))
	for i := range list {
		out[i].Name, trash[i] = list[i].Name, list[i].To
	}
	merged, err := r.hideAll(ctx, out, trash)
	for i := range list {
		if list[i].Removal = out[i]; err != nil && out[i].Err == nil && trash[i] == "" {
			list[i].Err = err
		}
	}
	// The kernel does not know that these are where they are.
	for _, i := range merged {
		if trash[i] == "" || list[i].Err != nil {
			continue
		}
		list[i].Deleted = true
		if list[i].Bytes, err = r.purge(context.WithoutCancel(ctx), trash[i]); err != nil {
			list[i].Err = fmt.Errorf("delete %q, renamed to %q: %w", list[i].Name, trash[i], err)
		}
	}
}
