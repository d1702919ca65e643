package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nixhash"
)

// Classes of what layers have of one name. l.at[0] is the upper, or the plain store.

// ofObject tells whether the line is about a store object, and all layers could tell.
// Something may have the name of a lock, say, and be registered all the same.
func (l *line) ofObject() bool {
	if l.kind != objectName && !slices.ContainsFunc(l.at, func(p presence) bool { return p.row }) {
		return false
	}
	return l.certain()
}

// leaning tells whether the upper has a row of what is to be in a lower.
func (l *line) leaning() bool {
	return len(l.at) > 1 && l.at[0].row && l.at[0].typ == 0 && l.ofObject()
}

// shown is the lower whose object would show, 0 if there is none.
func (l *line) shown() int { return l.lower(presence.object) }

// owner is the first lower that has it for valid, 0 if there is none.
func (l *line) owner() int { return l.lower(func(p presence) bool { return p.row }) }

func findLostByLower(_ *examination, l *line, say func(*Finding)) {
	if l.leaning() && l.shown() == 0 && l.owner() != 0 {
		say(&Finding{layer: l.owner(), nix: disappeared})
	}
}

func findChangedByLower(_ *examination, l *line, say func(*Finding)) {
	i := l.shown()
	if !l.leaning() || i == 0 || !l.at[i].row || l.at[i].hash.IsZero() || l.at[0].hash.IsZero() || l.at[i].hash == l.at[0].hash {
		return
	}
	say(&Finding{
		layer:  i,
		Detail: fmt.Sprintf("the upper knows it with the hash %s, the lower with %s", hashText(l.at[0].hash), hashText(l.at[i].hash)),
	})
}

func hashText(h nixhash.Hash) string { return h.Text(nixhash.Nix32) }

func findUnregisteredByLower(_ *examination, l *line, say func(*Finding)) {
	if i := l.shown(); l.leaning() && i != 0 && l.owner() == 0 {
		say(&Finding{layer: i})
	}
}

// findLost finds rows without objects: of the upper when no layer has it, of a lower
// when neither it nor one below has it.
func findLost(x *examination, l *line, say func(*Finding)) {
	if !l.ofObject() {
		return
	}
	for i, p := range l.at {
		if !p.row || slices.ContainsFunc(l.at[i:], presence.object) {
			continue
		}
		switch {
		case i == 0 && l.whiteout() && l.shown() != 0:
			// The whiteout is what is wrong.
		case i == 0 && (len(l.at) == 1 || l.owner() == 0):
			say(&Finding{nix: disappeared})
		case i > 0 && x.listed(i) && !l.leaning() && !l.covered():
			f := &Finding{layer: i}
			if !l.at[0].row && l.shown() == 0 {
				f.Detail = leftToOwner
			}
			say(f)
		}
	}
}

// leftToOwner says what is to be done about an object of a lower that is lost or spoilt, and that the upper does
// not need, or not any more since it was given up.
const leftToOwner = "the upper does not need it; until its owner brings it back or has it forgotten, it counts as valid here, too, and is not fetched or built anew"

// covered tells whether the upper has the object itself, and nobody sees what lowers have.
func (l *line) covered() bool { return len(l.at) > 1 && l.at[0].row && l.at[0].object() }

// findCoveredMissing is findLost for lowers whose objects nobody sees here.
func findCoveredMissing(x *examination, l *line, say func(*Finding)) {
	if !l.ofObject() || !l.covered() {
		return
	}
	for i := 1; i < len(l.at); i++ {
		if l.at[i].row && x.listed(i) && !slices.ContainsFunc(l.at[i:], presence.object) {
			say(&Finding{layer: i})
		}
	}
}

// disappeared is what Nix says of a path that something refers to.
const disappeared = "path '%s' disappeared, but it still has valid referrers!"

func findHidingWhiteout(x *examination, l *line, say func(*Finding)) {
	if i := l.hidden(); l.whiteout() && i != 0 && x.isWhiteout(l) {
		say(&Finding{Path: x.layerPath(0, l), Detail: "it hides that of " + x.Layers[i].Name})
	}
}

// hidden is the lower whose object a whiteout hides, 0 if there is none: a lock or something that is
// being unpacked is no object.
func (l *line) hidden() int {
	if l.kind != objectName && l.owner() == 0 {
		return 0
	}
	return l.shown()
}

func findStrayWhiteout(x *examination, l *line, say func(*Finding)) {
	if l.whiteout() && l.certain() && l.hidden() == 0 && x.isWhiteout(l) {
		say(&Finding{Path: x.layerPath(0, l)})
	}
}

// layerPath is the file that a layer has of a name.
func (x *examination) layerPath(layer int, l *line) string {
	return visible(filepath.Join(x.Layers[layer].Dir, l.name))
}

// findHidingObject finds what is in a layer without being registered there, above one
// that is registered.
func findHidingObject(x *examination, l *line, say func(*Finding)) {
	if !l.ofObject() {
		return
	}
	for i, p := range l.at[:len(l.at)-1] {
		if !p.object() || p.row {
			continue
		}
		below := slices.IndexFunc(l.at[i+1:], func(q presence) bool { return q.row && q.object() })
		if below < 0 || x.temporarily(i, l) {
			continue
		}
		say(&Finding{layer: i, Detail: "it hides that of " + x.Layers[i+1+below].Name})
		return
	}
}

// findMerged finds directories of the upper that are registered there, and not opaque,
// over one of a lower.
func findMerged(x *examination, l *line, say func(*Finding)) {
	if len(l.at) == 1 || !l.ofObject() || !l.at[0].row || l.at[0].typ != unix.DT_DIR || !x.marks {
		return
	}
	if i := l.shown(); i != 0 && l.at[i].typ == unix.DT_DIR && !x.isOpaque(l) {
		say(&Finding{Detail: "it is not opaque, and mixed with that of " + x.Layers[i].Name})
	}
}

// findStaleView finds what a layer has and nobody sees.
func findStaleView(x *examination, l *line, say func(*Finding)) {
	if len(l.at) == 1 || !x.mounted || !x.selected[0] || !l.ofObject() || !l.at[0].row || l.whiteout() {
		return
	}
	layer := 0
	if !l.at[0].object() {
		if layer = l.shown(); layer == 0 {
			return
		}
	}
	path := filepath.Join(x.RealDir, l.name)
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) {
		say(&Finding{layer: layer, Detail: fmt.Sprintf("%s has it, and at '%s' there is %s", x.Layers[layer].Name, path, viewError(err))})
	}
}

func viewError(err error) string {
	if errors.Is(err, unix.ESTALE) {
		return "a stale file handle"
	}
	return "nothing"
}

func findDuplicate(x *examination, l *line, say func(*Finding)) {
	if len(l.at) == 1 || !l.ofObject() || !l.at[0].row || !l.at[0].object() || x.kept.Has(l.path) {
		return
	}
	i := l.shown()
	if i == 0 || !l.at[i].row || l.at[i].hash.IsZero() || l.at[i].hash != l.at[0].hash {
		return
	}
	if l.at[0].typ == unix.DT_DIR && l.at[i].typ == unix.DT_DIR && (!x.marks || !x.isOpaque(l)) {
		return // mixed
	}
	say(&Finding{Detail: "so has " + x.Layers[i].Name})
}

// findStray finds what is registered nowhere: in the upper, and in lowers that are
// checked.
func findStray(x *examination, l *line, say func(*Finding)) {
	if l.kind != objectName || !l.certain() || slices.ContainsFunc(l.at, func(p presence) bool { return p.row }) {
		return
	}
	for i, p := range l.at {
		if p.object() && (i == 0 || x.listed(i)) && !x.temporarily(i, l) {
			say(&Finding{layer: i})
			return
		}
	}
}

func findForeign(x *examination, l *line, say func(*Finding)) {
	if l.kind == foreignName && l.at[0].object() {
		say(&Finding{Path: x.layerPath(0, l)})
	}
}

func findLeftover(x *examination, l *line, say func(*Finding)) {
	if l.at[0].unknown || !l.at[0].object() || l.at[0].row {
		return
	}
	path := filepath.Join(x.Layers[0].Dir, l.name)
	switch l.kind {
	case temporaryName:
		if x.inUse(x.lockedAt(l.name), l.at[0].typ) || x.temporarily(0, l) {
			return
		}
	case trashName:
		if recent(path) || x.removing() {
			return
		}
	case chrootName:
		if recent(path) || x.temporarily(0, l) || x.heldLock(l.path) {
			return
		}
	default:
		return
	}
	say(&Finding{Path: visible(path)})
}

func findLeftLock(x *examination, l *line, say func(*Finding)) {
	if l.kind != lockName || l.at[0].unknown || l.at[0].row || l.at[0].typ != unix.DT_REG {
		return
	}
	if !x.inUse(x.lockedAt(l.name), unix.DT_REG) {
		say(&Finding{Path: x.layerPath(0, l)})
	}
}
