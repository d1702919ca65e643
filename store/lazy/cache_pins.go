package lazy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// ErrPinName: a text cannot be the name of a pin.
var ErrPinName = errors.New("not a name for a pin: use up to 64 letters, digits, '-', '_' and '.', not first")

// Pin keeps objects from being evicted, whether they are here or not, until Unpin of the same
// name. It takes the place of an earlier pin of that name.
func (c *Cache) Pin(name string, paths []storepath.Path) error {
	if !validPin(name) {
		return fmt.Errorf("'%.80s' is %w", name, ErrPinName)
	}
	var b strings.Builder
	for _, p := range paths {
		b.WriteString(p.Base() + "\n")
	}
	return replaceFile(c.at(pinsDir, name), []byte(b.String()))
}

// Unpin lets objects go again. That there is no such pin is no error.
func (c *Cache) Unpin(name string) error {
	if !validPin(name) {
		return fmt.Errorf("'%.80s' is %w", name, ErrPinName)
	}
	if err := os.Remove(c.at(pinsDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func validPin(name string) bool {
	if name == "" || len(name) > 64 || name[0] == '.' {
		return false
	}
	return strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// pinned are all that must not go. What cannot be read keeps everything: it is an error.
func (c *Cache) pinned() (storepath.Set, error) {
	names, err := readNames(c.at(pinsDir))
	if err != nil {
		return nil, err
	}
	set := storepath.Set{}
	for _, name := range names {
		if !validPin(name) || strings.Contains(name, ".new-") {
			continue
		}
		text, err := readSmall(c.at(pinsDir, name), MaxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			p, err := storepath.ParseBase(strings.TrimSuffix(line, "\n"))
			if err != nil {
				return nil, fmt.Errorf("pin '%s': %w", name, err)
			}
			set.Add(p)
		}
	}
	return set, nil
}
