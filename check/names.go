package check

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/strata-nix/strata/gc"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/storepath"
)

// nameKind is what an entry of a store directory is by its name.
type nameKind int

const (
	objectName    nameKind = iota
	lockName               // <path>.lock
	chrootName             // <path>.chroot: where a build runs
	temporaryName          // of an operation that is not over
	trashName              // on its way out of the upper layer
	ignoredName            // belongs there
	foreignName
)

// kindOf tells what a name is, and which store path it belongs to, if any.
func kindOf(name string) (nameKind, storepath.Path) {
	if p, err := storepath.ParseBase(name); err == nil {
		for suffix, kind := range map[string]nameKind{".lock": lockName, ".chroot": chrootName} {
			if rest, ok := strings.CutSuffix(name, suffix); ok {
				if of, err := storepath.ParseBase(rest); err == nil {
					return kind, of
				}
			}
		}
		switch {
		case gc.IsTempName(name): // has a temporary root
			return temporaryName, p
		case optimise.IsTemporary(p):
			return temporaryName, storepath.Path{}
		}
		return objectName, p
	}
	switch {
	case name == optimise.LinksName, strings.HasPrefix(name, ".nfs"):
		return ignoredName, storepath.Path{}
	case strings.HasPrefix(name, overlayfs.TrashPrefix), strings.HasPrefix(name, overlayfs.RefreshPrefix):
		return trashName, storepath.Path{}
	case strings.HasPrefix(name, "tmp-"), strings.HasPrefix(name, ".tmp-link"):
		return temporaryName, storepath.Path{}
	}
	return foreignName, storepath.Path{}
}

// visible spells what comes from a directory so that it does no harm on a terminal and
// is UTF-8: as it is, or in quotes.
func visible(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return name
	}
	return strconv.Quote(name)
}
