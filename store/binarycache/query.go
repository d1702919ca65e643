package binarycache

import (
	"context"
	"fmt"
	"sync"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// infoSuffix ends the names of narinfos.
const infoSuffix = ".narinfo"

// ValidPaths gives those of paths that are in the cache.
func (s *Store) ValidPaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	infos, err := s.NarInfos(ctx, paths)
	var valid []storepath.Path
	for i, info := range infos {
		if info != nil {
			valid = append(valid, paths[i])
		}
	}
	return valid, err
}

// PathInfos gives what the cache says of each path. Nobody has checked it.
func (s *Store) PathInfos(ctx context.Context, paths []storepath.Path) ([]*store.PathInfo, error) {
	found, err := s.NarInfos(ctx, paths)
	if found == nil {
		return nil, err
	}
	infos := make([]*store.PathInfo, len(paths))
	for i, info := range found {
		if info != nil {
			infos[i] = &info.PathInfo
		}
	}
	return infos, err
}

// DownloadSizes gives the sizes of the NARs as they are in the cache.
func (s *Store) DownloadSizes(ctx context.Context, paths []storepath.Path) ([]uint64, error) {
	found, err := s.NarInfos(ctx, paths)
	if found == nil {
		return nil, err
	}
	sizes := make([]uint64, len(paths))
	for i, info := range found {
		if info != nil {
			sizes[i] = info.FileSize
		}
	}
	return sizes, err
}

// PathFromHashPart completes a hash part.
func (s *Store) PathFromHashPart(ctx context.Context, hashPart string) (storepath.Path, error) {
	if err := storepath.CheckHashPart(hashPart); err != nil {
		return storepath.Path{}, err
	}
	infos, errs, err := s.byHashPart(ctx, []string{hashPart})
	if err != nil {
		return storepath.Path{}, err
	}
	if err := errs[hashPart]; err != nil {
		return storepath.Path{}, err
	}
	if info := infos[hashPart]; info != nil {
		return info.Path, nil
	}
	return storepath.Path{}, nil
}

// NarInfos is PathInfos with all that the narinfos say. They are shared; nobody may
// change them.
func (s *Store) NarInfos(ctx context.Context, paths []storepath.Path) ([]*narinfo.NarInfo, error) {
	hashes := make([]string, len(paths))
	for i, p := range paths {
		hashes[i] = p.HashPart()
	}
	known, errs, err := s.byHashPart(ctx, hashes)
	if err != nil {
		return nil, err
	}
	infos := make([]*narinfo.NarInfo, len(paths))
	for i, p := range paths {
		// Another object with this hash part is not the one that was asked for.
		if info := known[hashes[i]]; info != nil && info.Path == p {
			infos[i] = info
		}
	}
	if len(errs) == 0 {
		return infos, nil
	}
	partial := &store.PartialError{Errs: map[storepath.Path]error{}}
	for i, p := range paths {
		if err := errs[hashes[i]]; err != nil {
			partial.Errs[p] = err
		}
	}
	return infos, partial
}

// narInfo gives the narinfo of a path that must be in the cache.
func (s *Store) narInfo(ctx context.Context, p storepath.Path) (*narinfo.NarInfo, error) {
	infos, err := s.NarInfos(ctx, []storepath.Path{p})
	if err != nil {
		return nil, err
	}
	if infos[0] == nil {
		return nil, &store.InvalidPathError{Path: s.o.Dir.Print(p)}
	}
	return infos[0], nil
}

// byHashPart finds narinfos: in memory, then on disk, then in the cache itself, which
// is asked for all that are left, several at a time. A hash part that is in neither map is
// not in the cache; errs are about single files.
func (s *Store) byHashPart(ctx context.Context, hashes []string) (infos map[string]*narinfo.NarInfo, errs map[string]error, err error) {
	infos = make(map[string]*narinfo.NarInfo, len(hashes))
	if len(hashes) == 0 {
		return infos, nil, nil
	}
	if _, err := s.readable(ctx); err != nil {
		return nil, nil, err
	}
	var ask []string
	asked := make(map[string]bool, len(hashes))
	age := store.AnswerAgeOf(ctx)
	for _, h := range hashes {
		if asked[h] {
			continue
		}
		asked[h] = true
		if info, known := s.known.get(h, age); !known {
			ask = append(ask, h)
		} else if info != nil {
			infos[h] = info
		}
	}
	ask = s.fromDisk(ctx, ask, infos)
	if len(ask) == 0 {
		return infos, nil, nil
	}
	found, errs, err := s.fetchInfos(ctx, ask)
	for h, info := range found {
		if info != nil {
			infos[h] = info
		}
	}
	return infos, errs, err
}

// fromDisk adds what is known on disk, and gives the rest.
func (s *Store) fromDisk(ctx context.Context, hashes []string, infos map[string]*narinfo.NarInfo) (rest []string) {
	if s.disk == nil || len(hashes) == 0 {
		return hashes
	}
	for i, a := range s.disk.NarInfos(ctx, hashes) {
		h := hashes[i]
		if a == nil || a.Value != nil && s.checkInfo(h, a.Value) != nil {
			rest = append(rest, h)
			continue
		}
		s.known.put(h, a.Value)
		if a.Value != nil {
			infos[h] = a.Value
		}
	}
	return rest
}

// fetchInfos asks the cache, and remembers its answers; nil that it has none.
func (s *Store) fetchInfos(ctx context.Context, hashes []string) (found map[string]*narinfo.NarInfo, errs map[string]error, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	found = make(map[string]*narinfo.NarInfo, len(hashes))
	var (
		mu   sync.Mutex
		next int
		wg   sync.WaitGroup
	)
	take := func() string {
		mu.Lock()
		defer mu.Unlock()
		if next == len(hashes) || ctx.Err() != nil {
			return ""
		}
		next++
		return hashes[next-1]
	}
	note := func(hash string, info *narinfo.NarInfo, err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			found[hash] = info
		case isBadFile(err):
			if errs == nil {
				errs = map[string]error{}
			}
			errs[hash] = err
		default:
			cancel(err) // the cache cannot be asked
		}
	}
	for range min(len(hashes), cap(s.asking)) {
		wg.Go(func() {
			for h := take(); h != ""; h = take() {
				info, err := s.fetchInfo(ctx, h)
				note(h, info, err)
			}
		})
	}
	wg.Wait()
	s.remember(context.WithoutCancel(ctx), found)
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	return found, errs, nil
}

// remember notes what the cache has answered.
func (s *Store) remember(ctx context.Context, found map[string]*narinfo.NarInfo) {
	for h, info := range found {
		s.known.put(h, info)
	}
	if s.disk != nil {
		s.disk.SetNarInfos(ctx, found)
	}
}

// forget makes a narinfo unknown that turned out not to be true.
func (s *Store) forget(ctx context.Context, p storepath.Path) {
	s.known.forget(p.HashPart())
	if s.disk != nil {
		s.disk.Forget(context.WithoutCancel(ctx), p.HashPart())
	}
}

// askInfo asks the cache for one narinfo, nil if it has none.
func (s *Store) askInfo(ctx context.Context, hash string) (*narinfo.NarInfo, error) {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	where := string(s.o.Dir) + "/" + hash
	ctx, act := activity.Start(ctx, activity.Talkative, activity.QueryPathInfo,
		fmt.Sprintf("querying info about '%s' on '%s'", where, s.o.URI), activity.Text(where), activity.Text(s.o.URI))
	defer act.Stop()
	name := hash + infoSuffix
	text, err := s.readFile(ctx, name, "", narinfo.MaxSize)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := narinfo.Parse(s.o.Dir, name, text)
	if err != nil {
		return nil, s.bad(name, "", err)
	}
	return info, s.checkInfo(hash, info)
}

// checkInfo refuses a narinfo that is about another object, whose NAR is not in the
// cache or cannot be read, or that contradicts itself.
func (s *Store) checkInfo(hash string, info *narinfo.NarInfo) error {
	fault := func(why string, err error) error { return s.bad(hash+infoSuffix, why, err) }
	if info.Path.HashPart() != hash {
		return fault(fmt.Sprintf("it is about another store path, '%s'", s.o.Dir.Print(info.Path)), nil)
	}
	if _, _, err := info.RelativeURL(); err != nil {
		return fault("", err)
	}
	method, err := compress.Parse(info.Compression)
	if err != nil {
		return fault("", err)
	}
	if method != compress.None {
		return nil
	}
	// The file is the NAR.
	if !info.FileHash.IsZero() && info.FileHash != info.NarHash {
		return fault("the NAR is not compressed, and FileHash is not NarHash", nil)
	}
	if info.FileSize != 0 && info.FileSize != info.NarSize {
		return fault("the NAR is not compressed, and FileSize is not NarSize", nil)
	}
	return nil
}
