package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/strata-nix/strata/internal/suggest"
	"github.com/strata-nix/strata/optimise"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// maxFile is the most bytes that a strata.toml may have.
const maxFile = 1 << 20

// file is strata.toml; doc/formats/strata-toml.md describes it.
type file struct {
	Name          string         `toml:"name"`
	StoreDir      string         `toml:"store-dir"`
	Root          string         `toml:"root"`
	Mount         string         `toml:"mount"`
	Socket        string         `toml:"socket"`
	ShowState     *bool          `toml:"show-state"`
	Cover         bool           `toml:"cover"`
	LazyUnmount   bool           `toml:"lazy-unmount"`
	WaitForLowers string         `toml:"wait-for-lowers"`
	OnLowerChange string         `toml:"on-lower-change"`
	Lowers        []string       `toml:"lowers"`
	Lower         []fileLower    `toml:"lower"`
	Upper         fileUpper      `toml:"upper"`
	Settings      map[string]any `toml:"settings"`
	GC            filePolicy     `toml:"gc"`
	Consumer      string         `toml:"consumer"`
	Watch         string         `toml:"watch"`
	WatchInterval string         `toml:"watch-interval"`
}

type fileLower struct {
	Name  string `toml:"name"`
	Path  string `toml:"path"`
	Store string `toml:"store"`
	Real  string `toml:"real"`
	State string `toml:"state"`
	Mount string `toml:"mount"`

	Roots         *bool  `toml:"roots"`
	Leases        string `toml:"leases"`
	LeaseRequired *bool  `toml:"lease-required"`

	fileLazy
}

type fileUpper struct {
	Dir     string `toml:"dir"`
	Layer   string `toml:"layer"`
	Work    string `toml:"work"`
	State   string `toml:"state"`
	Log     string `toml:"log"`
	Tmpfs   string `toml:"tmpfs"`
	Reflink string `toml:"reflink"`
}

// FileError is a mistake in a strata.toml.
type FileError struct {
	File         string
	Line, Column int // from 1; 0 when it is about no place
	Err          error
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d:%d: %v", e.File, e.Line, e.Column, e.Err)
}

// Unwrap gives the cause.
func (e *FileError) Unwrap() error { return e.Err }

// ReadFile reads a strata.toml. Relative paths in it are meant from its
// directory. The result is not resolved yet: flags may change it. Mistakes are
// [*FileError]s.
func ReadFile(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, err
	}
	if len(data) > maxFile {
		return Config{}, &FileError{File: path, Err: fmt.Errorf("is larger than %d bytes", maxFile)}
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Config{}, err
	}
	return Parse(path, data, dir)
}

// Parse reads the text of a strata.toml. name is what errors call it, and dir
// where relative paths begin.
func Parse(name string, data []byte, dir string) (Config, error) {
	var f file
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return Config{}, fileErrors(name, err)
	}
	c, err := f.config()
	if err != nil {
		return Config{}, &FileError{File: name, Err: err}
	}
	c.absolute(dir)
	return c, nil
}

// fileErrors puts the place before what the TOML package says.
func fileErrors(name string, err error) error {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) {
		var all []error
		for i := range missing.Errors {
			e := &missing.Errors[i]
			line, column := e.Position()
			all = append(all, &FileError{name, line, column, unknownKey(e.Key())})
		}
		return errors.Join(all...)
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, column := de.Position()
		text := strings.TrimPrefix(de.Error(), "toml: ")
		if key := strings.Join(de.Key(), "."); key != "" {
			text = key + ": " + text
		}
		return &FileError{name, line, column, errors.New(text)}
	}
	return &FileError{File: name, Err: err}
}

func unknownKey(key []string) error {
	t := reflect.TypeFor[file]()
	for _, k := range key[:max(len(key)-1, 0)] {
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("toml") == k {
				if t = f.Type; t.Kind() == reflect.Slice {
					t = t.Elem()
				}
				break
			}
		}
		if t.Kind() != reflect.Struct {
			break
		}
	}
	var known []string
	if t.Kind() == reflect.Struct {
		for i := range t.NumField() {
			known = append(known, t.Field(i).Tag.Get("toml"))
		}
	}
	last := ""
	if len(key) > 0 {
		last = key[len(key)-1]
	}
	return fmt.Errorf("unknown key '%.80s'%s", strings.Join(key, "."), meant(last, known))
}

// meant is what somebody may have meant, as the end of a sentence.
func meant(name string, known []string) string {
	if best := suggest.Near(name, known); best != "" {
		return fmt.Sprintf("; did you mean '%s'?", best)
	}
	return ""
}

func (f *file) config() (c Config, err error) {
	c = Config{
		Name: f.Name, Root: f.Root, Mount: f.Mount, Socket: f.Socket,
		Cover: f.Cover, Lazy: f.LazyUnmount,
		Upper: Upper{Dir: f.Upper.Dir, Layer: f.Upper.Layer, Work: f.Upper.Work, State: f.Upper.State, Log: f.Upper.Log},
	}
	if f.Upper.Tmpfs != "" {
		if c.Upper.Tmpfs, err = ParseTmpfs(f.Upper.Tmpfs); err != nil {
			return c, &ConfigError{"upper.tmpfs", err.Error()}
		}
	}
	if f.Upper.Reflink != "" {
		if c.Upper.Reflink, err = optimise.ParseReflink(f.Upper.Reflink); err != nil {
			return c, &ConfigError{"upper.reflink", err.Error()}
		}
	}
	if f.ShowState != nil {
		if c.ShowState = No; *f.ShowState {
			c.ShowState = Yes
		}
	}
	if f.StoreDir != "" {
		if c.StoreDir, err = storepath.ParseDir(f.StoreDir); err != nil {
			return c, fmt.Errorf("store-dir: %w", err)
		}
	}
	if c.OnLowerChange, err = ParseOnLowerChange(f.OnLowerChange); err != nil {
		return c, &ConfigError{"on-lower-change", err.Error()}
	}
	if f.WaitForLowers != "" {
		if c.WaitForLowers, err = time.ParseDuration(f.WaitForLowers); err != nil {
			return c, &ConfigError{"wait-for-lowers", fmt.Sprintf("'%.80s' is not a duration such as \"30s\"", f.WaitForLowers)}
		}
	}
	if c.Watch, err = f.watch(); err != nil {
		return c, err
	}
	if c.GC, err = f.GC.policy(); err != nil {
		return c, err
	}
	c.Consumer = f.Consumer
	if c.Lowers, err = f.lowers(); err != nil {
		return c, err
	}
	c.Settings, err = settings(f.Settings)
	return c, err
}

func (f *file) lowers() ([]Lower, error) {
	if len(f.Lowers) > 0 && len(f.Lower) > 0 {
		return nil, errors.New("both 'lowers' and '[[lower]]' are there, so that the order is not clear; use one of them")
	}
	var out []Lower
	for i, text := range f.Lowers {
		l, err := ParseLower(text)
		if err != nil {
			return nil, fmt.Errorf("lowers, item %d: %w", i+1, err)
		}
		out = append(out, l)
	}
	for i, t := range f.Lower {
		l := Lower{
			Name: t.Name, Path: t.Path, Real: t.Real, State: t.State, Mount: t.Mount,
			Roots: choice(t.Roots), Leases: t.Leases, LeaseRequired: choice(t.LeaseRequired),
		}
		ref, isLazy, err := t.reference()
		switch {
		case err != nil:
			return nil, fmt.Errorf("lower %d: %w", i+1, err)
		case isLazy && t.Store != "":
			return nil, fmt.Errorf("lower %d: it has both 'lazy' and 'store'; use one of them", i+1)
		}
		l.Store = ref
		if t.Store != "" {
			var err error
			if l.Store, err = store.ParseReference(t.Store); err != nil {
				return nil, fmt.Errorf("lower %d: store: %w", i+1, err)
			}
		}
		out = append(out, l)
	}
	return out, nil
}

// settings spells values as nix.conf does.
func settings(in map[string]any) (map[string]string, error) {
	out := make(map[string]string, len(in))
	for name, v := range in {
		text, ok := settingText(v)
		if !ok {
			return nil, &ConfigError{"settings." + name, "is neither a string, nor a truth value, nor an integer, nor a list of strings"}
		}
		out[name] = text
	}
	return out, nil
}

func settingText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case []any:
		words := make([]string, len(v))
		for i, e := range v {
			word, ok := e.(string)
			if !ok || strings.ContainsAny(word, " \t\n") || word == "" {
				return "", false
			}
			words[i] = word
		}
		return strings.Join(words, " "), true
	}
	return "", false
}

// absolute makes the paths absolute that Resolve would take from elsewhere.
// Paths within a lower stay as they are.
func (c *Config) absolute(dir string) {
	at := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for _, p := range []*string{
		&c.Root, &c.Mount, &c.Socket, &c.Upper.Dir, &c.Upper.Layer, &c.Upper.Work, &c.Upper.State, &c.Upper.Log,
	} {
		at(p)
	}
	for i := range c.Lowers {
		at(&c.Lowers[i].Path)
		at(&c.Lowers[i].Mount)
		absoluteLazy(&c.Lowers[i].Store, dir)
		absoluteLeases(&c.Lowers[i].Leases, dir)
	}
	absoluteLeases(&c.GC.Leases, dir)
}
