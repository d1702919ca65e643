package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

// Scripts look for the C library's words in what Nix prints.
func TestFaultsHaveTheWordsOfC(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "/nix/store/x", Err: syscall.ENOSPC}
	for _, c := range []struct {
		err  error
		want string
	}{
		{full, "write /nix/store/x: No space left on device"},
		{fmt.Errorf("importing path 'x': %w", full), "importing path 'x': write /nix/store/x: No space left on device"},
		{errors.Join(full, full), "write /nix/store/x: No space left on device\nwrite /nix/store/x: No space left on device"},
		{&fs.PathError{Op: "open", Path: "/no space left on device", Err: syscall.EACCES}, "open /no space left on device: Permission denied"},
		{syscall.EIO, "input/output error"},
		{errors.New("permission denied"), "permission denied"},
	} {
		if got := faultOf(c.err).Message; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
