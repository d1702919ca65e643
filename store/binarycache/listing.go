package binarycache

import (
	"context"
	"errors"
	"regexp"

	"golang.org/x/sync/errgroup"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/internal/canonjson"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/objstore"
)

// describe writes what is wanted beside an object's narinfo.
func (s *Store) describe(ctx context.Context, ni *narinfo.NarInfo, seen *seenNar) error {
	if s.o.WriteIndex {
		if err := s.writeIndex(ctx, ni, seen); err != nil {
			return err
		}
	}
	if s.o.WriteListing {
		if err := s.writeListing(ctx, ni, seen.listing); err != nil {
			return err
		}
	}
	if s.o.IndexDebugInfo {
		return s.indexDebugInfo(ctx, ni, seen.listing)
	}
	return nil
}

func (s *Store) writeListing(ctx context.Context, ni *narinfo.NarInfo, listing *nar.Listing) error {
	text, err := listing.MarshalJSON()
	if errors.Is(err, nar.ErrNotUTF8) {
		// JSON has no word for such a name, and the object is good all the same.
		activity.Warnf(ctx, "no listing of '%s': %v", s.o.Dir.Print(ni.Path), err)
		return nil
	}
	if err != nil {
		return err
	}
	return s.writeFile(ctx, ni.Path.HashPart()+".ls", text, s.o.ListingCompression, objstore.PutOptions{ContentType: typeJSON})
}

// What the files with debug information are called, below buildIDs.
const buildIDs = "lib/debug/.build-id"

var (
	buildIDStart = regexp.MustCompile(`^[0-9a-f]{2}$`)
	buildIDRest  = regexp.MustCompile(`^([0-9a-f]{38})\.debug$`)
)

// debugLinks is how many links to debug information are written at once.
const debugLinks = 25

// indexDebugInfo writes, for each build id in the object, which file of which NAR
// has its debug information. What is there already stays.
func (s *Store) indexDebugInfo(ctx context.Context, ni *narinfo.NarInfo, listing *nar.Listing) error {
	top := listing.Lookup(buildIDs)
	if top == nil || top.Type != nar.TypeDirectory {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(debugLinks)
	for _, d := range top.Entries {
		if d.Node.Type != nar.TypeDirectory || !buildIDStart.MatchString(d.Name) {
			continue
		}
		for _, f := range d.Node.Entries {
			m := buildIDRest.FindStringSubmatch(f.Name)
			if f.Node.Type != nar.TypeRegular || m == nil {
				continue
			}
			member := buildIDs + "/" + d.Name + "/" + f.Name
			g.Go(func() error { return s.writeDebugLink(ctx, ni, d.Name+m[1], member) })
		}
	}
	return g.Wait()
}

func (s *Store) writeDebugLink(ctx context.Context, ni *narinfo.NarInfo, buildID, member string) error {
	text := canonjson.AppendString([]byte(`{"archive":`), "../"+ni.URL)
	text = append(canonjson.AppendString(append(text, `,"member":`...), member), '}')
	return s.writeFile(ctx, "debuginfo/"+buildID, text, "", objstore.PutOptions{ContentType: typeJSON, IfAbsent: true})
}
