package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/overlayfs"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/lazy"
)

// LazyScheme is the scheme of stores whose objects arrive when they are read.
const LazyScheme = "lazy"

// LazyMount is the mount of a lazy lower, which somebody has to serve.
type LazyMount struct {
	Store  store.Reference // what is shown
	Target string
	// State is a directory that lasts as long as the mount.
	State string
	// Conn is the connection to the kernel; it is closed when the call returns.
	Conn *os.File
	// Private tells that the mount is of no use to anybody without this process.
	Private bool
	// TakeOver tells that the mount is that of an earlier run, and that nobody serves it any more.
	TakeOver bool
}

// fileLazy are the keys of a lower that is lazy.
type fileLazy struct {
	From         []string `toml:"lazy"`
	Cache        string   `toml:"cache"`
	CacheSize    string   `toml:"cache-size"`
	CacheMinFree string   `toml:"cache-min-free"`
	CacheAge     string   `toml:"cache-age"`
	Validity     string   `toml:"validity"`
	Pinned       []string `toml:"pinned"`
	Manifest     string   `toml:"manifest"`
	Offline      bool     `toml:"offline"`
	Listings     *bool    `toml:"listings"`
	Graduate     *bool    `toml:"graduate"`
	Profiles     *bool    `toml:"profiles"`
	Patience     string   `toml:"patience"`
	Verify       string   `toml:"verify"`
}

// reference is the store that the keys describe; false if there are none of them.
func (f *fileLazy) reference() (store.Reference, bool, error) {
	none := fileLazy{}
	if len(f.From) == 0 {
		if !f.equal(&none) {
			return store.Reference{}, false, errors.New("keys of a lazy lower go with 'lazy', the list of caches")
		}
		return store.Reference{}, false, nil
	}
	p := map[string][]string{"from": f.From}
	set := func(name, value string) {
		if value != "" {
			p[name] = []string{value}
		}
	}
	for name, text := range map[string]string{"cache-size": f.CacheSize, "cache-min-free": f.CacheMinFree} {
		if text == "" {
			continue
		}
		n, err := parseBytes(text)
		if err != nil {
			return store.Reference{}, false, fmt.Errorf("%s: %w", name, err)
		}
		set(name, strconv.FormatUint(n, 10))
	}
	for name, text := range map[string]string{"cache-age": f.CacheAge, "patience": f.Patience} {
		if text == "" {
			continue
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Second {
			return store.Reference{}, false, fmt.Errorf("%s: '%.80s' is not a duration of at least a second such as \"30s\"", name, text)
		}
		set(name, strconv.FormatInt(int64(d/time.Second), 10))
	}
	switch f.Validity {
	case "", "cache":
		if len(f.Pinned) > 0 || f.Manifest != "" {
			return store.Reference{}, false, errors.New("'pinned' and 'manifest' go with validity = \"pinned\"")
		}
	case "pinned":
		if len(f.Pinned) == 0 == (f.Manifest == "") {
			return store.Reference{}, false, errors.New("validity = \"pinned\" goes with either 'pinned' or 'manifest'")
		}
	default:
		return store.Reference{}, false, fmt.Errorf("validity: '%.80s' is neither \"cache\" nor \"pinned\"", f.Validity)
	}
	if _, err := lazy.ParseVerify(f.Verify); err != nil {
		return store.Reference{}, false, fmt.Errorf("verify: %w", err)
	}
	set("verify", f.Verify)
	set("cache", f.Cache)
	set("manifest", f.Manifest)
	if len(f.Pinned) > 0 {
		p["pinned"] = f.Pinned
	}
	if f.Offline {
		set("offline", "true")
	}
	for name, b := range map[string]*bool{"listings": f.Listings, "graduate": f.Graduate, "profiles": f.Profiles} {
		if b != nil {
			set(name, strconv.FormatBool(*b))
		}
	}
	return store.Reference{Scheme: LazyScheme, Params: p}, true, nil
}

func (f *fileLazy) equal(o *fileLazy) bool {
	return f.Cache == o.Cache && f.CacheSize == o.CacheSize && f.CacheMinFree == o.CacheMinFree && f.CacheAge == o.CacheAge &&
		f.Validity == o.Validity && len(f.Pinned) == len(o.Pinned) && f.Manifest == o.Manifest && f.Offline == o.Offline &&
		f.Listings == o.Listings && f.Graduate == o.Graduate && f.Profiles == o.Profiles && f.Patience == o.Patience && f.Verify == o.Verify
}

// parseBytes reads a number of bytes, with K, M, G or T for powers of 1024.
func parseBytes(text string) (uint64, error) {
	number, shift := text, 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("kmgt", text[n-1]|0x20); i >= 0 {
			number, shift = text[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("'%.40s' is not a size such as 20G", text)
	}
	return n << shift, nil
}

// absoluteLazy makes the paths of a lazy lower absolute.
func absoluteLazy(ref *store.Reference, dir string) {
	if ref.Scheme != LazyScheme {
		return
	}
	p := maps.Clone(ref.Params)
	for _, name := range []string{"cache", "manifest"} {
		if v := ref.Param(name); v != "" && !filepath.IsAbs(v) {
			p[name] = []string{filepath.Join(dir, v)}
		}
	}
	ref.Params = p
}

// lazyReference is what a lazy lower is opened and served as.
func (f *found) lazyReference(dir string) store.Reference {
	p := maps.Clone(f.Store.Params)
	p["real"] = []string{f.real}
	if len(p["graduate"]) == 0 {
		p["graduate"] = []string{"true"}
	}
	if len(p["store"]) == 0 {
		p["store"] = []string{dir}
	}
	return store.Reference{Scheme: LazyScheme, Authority: f.Store.Authority, Params: p}
}

// lazyStep mounts a lazy lower, and has it served.
func (s *Stack) lazyStep(f *found) step {
	ref := f.lazyReference(string(s.Config.StoreDir))
	return step{
		role: roleLazy + f.Name, target: f.real, source: ref.String(), lower: f,
		identify: func(adopted bool) (string, error) {
			if adopted && f.conn == nil && s.parts.LazyKept != nil {
				f.conn = s.parts.LazyKept(f.real)
			}
			if adopted && f.conn == nil && !isServed(f.real) {
				return "", errors.New("nobody serves it any more")
			}
			return ref.String(), nil
		},
		adopted: func(ctx context.Context) error {
			if f.conn == nil {
				return nil
			}
			defer f.conn.Close()
			return s.parts.Lazy(ctx, LazyMount{Store: ref, Target: f.real, State: f.lazyState, Conn: f.conn, Private: s.run.Private, TakeOver: true})
		},
		attach: func(ctx context.Context, before func(overlayfs.Record) error) error {
			return s.mountLazy(ctx, f, ref, before)
		},
	}
}

func (s *Stack) mountLazy(ctx context.Context, f *found, ref store.Reference, before func(overlayfs.Record) error) error {
	if s.parts.Lazy == nil {
		return errors.New("this program serves no lazy lowers")
	}
	// What an earlier mount leaves says nothing to this one.
	if err := os.RemoveAll(f.lazyState); err != nil {
		return err
	}
	if err := makeDir(f.lazyState); err != nil {
		return err
	}
	conn, rec, err := fusefs.Mount(fusefs.MountOptions{Target: f.real, Name: "strata-lazy", BeforeAttach: before})
	if err != nil {
		return err
	}
	// From here on the mount is there, and whoever looks into it waits until it is served.
	err = s.parts.Lazy(ctx, LazyMount{Store: ref, Target: f.real, State: f.lazyState, Conn: conn.File(), Private: s.run.Private})
	if err = errors.Join(err, conn.Close()); err != nil {
		return errors.Join(err, overlayfs.Unmount(context.WithoutCancel(ctx), rec, overlayfs.UnmountOptions{Lazy: true}))
	}
	return nil
}

// lookAtLazy asks the processes that serve lazy lowers how these are.
func (r *Run) lookAtLazy(ctx context.Context, st *Status) {
	for i, l := range r.Lowers {
		if l.Kind != KindLazy {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, patience/2)
		report, err := lazy.AskControl(ask, r.lazyStateOf(l))
		cancel()
		if err != nil {
			st.Problems = append(st.Problems, fmt.Sprintf("lazy lower '%s' is not served: %v", l.Name, err))
			continue
		}
		st.Layers[i+1].Lazy = report
	}
}

// lazyStateOf is where the state of a lazy lower's mount is: beside the mount.
func (r *Run) lazyStateOf(l RunLower) string {
	for _, m := range r.Mounts {
		if m.Role == roleLazy+l.Name {
			return m.Given + lazyStateSuffix
		}
	}
	return l.Dir + lazyStateSuffix
}

// lazyStateSuffix is what the directory with the state of a mount has more in its name than
// the mount.
const lazyStateSuffix = ".lazy"

// lazyPatience is how long a mount may take to answer that is to be taken over.
const lazyPatience = 5 * time.Second

// isServed tells whether somebody serves a mount.
func isServed(target string) bool {
	said := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		said <- unix.Statfs(target, &st)
	}()
	select {
	case err := <-said:
		return err == nil
	case <-time.After(lazyPatience):
		return false
	}
}

// layerDirs are the directories of open lowers as layers of the overlay, first wins.
func layerDirs(stores []store.Store) []string {
	var dirs []string
	for _, st := range stores {
		dirs = append(dirs, store.Dirs(st)...)
	}
	return dirs
}

// graduating are the open lowers of which complete objects are in a directory in front.
func (s *Stack) graduating() (caches []*lazy.Cache) {
	for _, l := range s.lowers {
		if c, ok := store.As[interface {
			store.Fronted
			Cache() *lazy.Cache
		}](l); ok && len(c.FrontDirs()) > 0 {
			caches = append(caches, c.Cache())
		}
	}
	return caches
}

// How often the overlay looks again for objects that have become complete: a refresh
// makes the kernel forget all names, so that it should not come often, and be small beside what it
// saves.
const (
	graduateLook  = time.Second
	graduatePause = 5 * time.Second
	graduateShare = 50
)

// graduate lets the overlay show complete objects from disk, until ctx ends.
func (s *Stack) graduate(ctx context.Context, caches []*lazy.Cache) {
	stamps := func() (all []int64) {
		for _, c := range caches {
			var st unix.Stat_t
			if unix.Stat(c.Objects(), &st) == nil {
				all = append(all, st.Mtim.Nano())
			}
		}
		return all
	}
	shown, last := stamps(), stamps()
	next := time.Now().Add(graduatePause)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(graduateLook):
		}
		now := stamps()
		quiet := slices.Equal(now, last)
		last = now
		if slices.Equal(now, shown) || !quiet || time.Now().Before(next) {
			continue
		}
		began := time.Now()
		if _, err := s.Refresh(ctx); err != nil && ctx.Err() == nil {
			s.parts.Log.Warn(fmt.Sprintf("complete objects are not read from disk yet: %v", err))
		}
		shown = now
		next = time.Now().Add(max(graduatePause, graduateShare*time.Since(began)))
	}
}

// useCaches tells those who evict objects of lazy lowers that this stack uses them.
func (s *Stack) useCaches(ctx context.Context) (done func(), err error) {
	var ends []func() error
	done = func() {
		for _, end := range ends {
			if err := end(); err != nil {
				s.parts.Log.Warn(err.Error())
			}
		}
	}
	for _, c := range s.graduating() {
		end, err := c.Register(ctx, lazy.User{
			Dirs: []string{s.Config.Mount},
			Forget: func(ctx context.Context, _ []string) error {
				_, err := s.Refresh(ctx)
				return err
			},
		})
		if err != nil {
			done()
			return nil, err
		}
		ends = append(ends, end)
	}
	return done, nil
}

// startGraduating begins all that.
func (s *Stack) startGraduating(ctx context.Context) error {
	caches := s.graduating()
	if len(caches) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done, err := s.useCaches(ctx)
	if err != nil {
		cancel()
		return err
	}
	s.graduation.stop = func() {
		cancel()
		s.graduation.wg.Wait()
		done()
	}
	s.graduation.wg.Go(func() { s.graduate(ctx, caches) })
	return nil
}

func (s *Stack) stopGraduating() {
	if s.graduation.stop != nil {
		s.graduation.stop()
		s.graduation.stop = nil
	}
}
