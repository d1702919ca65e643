package debian

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// ErrNoMirror means that the machine's APT sources name no Debian archive, as
// on another distribution.
var ErrNoMirror = errors.New("no Debian archive in the APT sources of this machine")

// archiveURL matches the base URL of an archive of the distribution itself, in
// contrast to the security archive and to other vendors' repositories.
var archiveURL = regexp.MustCompile(`\bhttps?://[^\s\]]+/debian/?(?:\s|$)`)

// Mirror returns the base URL, without a slash at the end, of the first Debian
// archive that APT uses.
func Mirror() (string, error) { return mirrorIn("/etc/apt") }

func mirrorIn(etc string) (string, error) {
	parts, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return "", err
	}
	slices.Sort(parts)
	for _, file := range append([]string{filepath.Join(etc, "sources.list")}, parts...) {
		if ext := filepath.Ext(file); ext != ".list" && ext != ".sources" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			continue // apt may read what this user may not
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			if m := archiveURL.FindString(line); m != "" {
				return strings.TrimRight(strings.TrimSpace(m), "/"), nil
			}
		}
	}
	return "", ErrNoMirror
}
