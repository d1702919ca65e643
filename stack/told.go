package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/storepath"
)

// toldFile is where an upper notes the places in which it has told owners of lowers
// what it uses, in its directory: when a lower is one no more, what was told there is
// taken back.
const toldFile = "told.json"

// told is such a place.
type told struct {
	Kind     string `json:"kind"` // as in HoldStatus
	Place    string `json:"place"`
	Consumer string `json:"consumer"` // the directory of links, or the name of the lease
}

// told is where a hold tells.
func (h *held) told() told {
	t := told{Kind: h.st.Kind, Place: h.st.Place, Consumer: h.st.Consumer}
	if r, ok := h.do.(*rootsHolder); ok {
		t.Place, t.Consumer = r.links.place, r.links.consumer
	}
	return t
}

func (s *Stack) toldPath() string { return filepath.Join(s.Config.Upper.Dir, toldFile) }

// noteTold notes the places of the holds before anything is told there, and gives the
// others that were noted before.
func (s *Stack) noteTold(holds []*held) (others []told, err error) {
	var all []told
	text, err := os.ReadFile(s.toldPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := json.Unmarshal(text, &all); len(text) > 0 && err != nil {
		s.parts.Log.Warn(fmt.Sprintf("'%s' is damaged, so that nothing of it is taken back: %v", s.toldPath(), err))
		all = nil
	}
	var now []told
	for _, h := range holds {
		now = append(now, h.told())
	}
	others = slices.DeleteFunc(all, func(t told) bool { return slices.Contains(now, t) })
	if len(now)+len(others) == 0 {
		return nil, nil
	}
	return others, s.saveTold(slices.Concat(now, others))
}

func (s *Stack) saveTold(all []told) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.Create(s.toldPath() + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	err = os.Rename(s.toldPath()+".new", s.toldPath())
	crashpoint.Reached("stack: places noted where lowers are told")
	return err
}

// takeBack takes back what was told in places that are those of no lower any more. What
// cannot be reached stays noted.
func (s *Stack) takeBack(ctx context.Context, others []told, holds []*held) error {
	if len(others) == 0 {
		return nil
	}
	var left []told
	var errs []error
	for _, t := range others {
		if err := s.takeBackOne(ctx, t); err != nil {
			errs = append(errs, fmt.Errorf("taking back what was told in '%s': %w", t.Place, err))
			left = append(left, t)
		}
	}
	for _, h := range holds {
		left = append(left, h.told())
	}
	return errors.Join(append(errs, s.saveTold(left))...)
}

func (s *Stack) takeBackOne(ctx context.Context, t told) error {
	if t.Kind != "lease" {
		l := links{place: t.Place, consumer: t.Consumer, dir: s.Config.StoreDir}
		if _, err := os.Lstat(filepath.Join(t.Place, t.Consumer)); errors.Is(err, fs.ErrNotExist) {
			return err // whether the place is not there, or not what it was, nobody can tell
		}
		if err := l.removeOthers(storepath.Set{}); err != nil {
			return err
		}
		return l.remove()
	}
	p, err := s.openPlace(ctx, t.Place)
	if err != nil {
		return err
	}
	return p.DropOwn(ctx, t.Consumer, s.Config.holder())
}
