package stack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/strata-nix/strata/internal/crashpoint"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// Made says for which lowers an upper was made: what its database leans on. It is
// the file made.json in the upper's directory, which doc/formats/made-json.md
// describes. A stack writes it when it comes up, and whoever moves the upper to
// other lowers when that is done; it stays when the stack goes down.
type Made struct {
	Version  int         `json:"version"` // madeVersion
	StoreDir string      `json:"storeDir"`
	Written  time.Time   `json:"written"`
	Lowers   []MadeLower `json:"lowers"` // first wins
}

// MadeLower is one lower as it was. What could not be found out is left out.
type MadeLower struct {
	Name  string    `json:"name"`
	Kind  LowerKind `json:"kind"`
	Given string    `json:"given"`           // path or URI
	Real  string    `json:"real,omitempty"`  // as in strata.toml
	State string    `json:"state,omitempty"` // as in strata.toml
	// Image is the identity of an image, Directory that of the objects' directory of
	// any other lower.
	Image     *ImageIdentity     `json:"image,omitempty"`
	Directory *DirectoryIdentity `json:"directory,omitempty"`
	// Database tells whether a lower has only grown; nil for a store that does not
	// show its database, such as another daemon.
	Database *DatabaseIdentity `json:"database,omitempty"`
}

// ImageIdentity tells images apart, wherever they lie.
type ImageIdentity struct {
	Type  string `json:"type"` // "erofs", "squashfs"
	Bytes int64  `json:"bytes"`
	// Header is the SHA-256 of the first bytes, with the superblock.
	Header nixhash.Hash `json:"header"`
}

// DirectoryIdentity tells directories apart, over remounts and restarts.
type DirectoryIdentity struct {
	// FileSystem is "uuid:…", or, where the kernel tells none, "fsid:…"; "" if there
	// is neither.
	FileSystem string `json:"fileSystem,omitempty"`
	Inode      uint64 `json:"inode"`
	Born       int64  `json:"born,omitempty"` // nanoseconds since 1970
}

// DatabaseIdentity is a look at a lower's database.
type DatabaseIdentity struct {
	// Highest is the number of the last path that was registered. Numbers are never
	// given twice.
	Highest int64 `json:"highest"`
	// Samples are some valid paths with the hashes of their NARs.
	Samples []Sample `json:"samples,omitempty"`
}

// Sample is one valid path of a lower.
type Sample struct {
	Path    string       `json:"path"` // without the store directory
	NarHash nixhash.Hash `json:"narHash"`
}

const (
	madeVersion = 1
	madeFile    = "made.json"
	// maxMade bounds what is read; 500 lowers with their samples stay far below.
	maxMade = 16 << 20
	// maxSamples of a lower are looked at: of what lost a tenth of its paths, 32 show it
	// in 29 of 30 cases. What an upper leans on is compared path by path.
	maxSamples = 32
)

var (
	// ErrNotMade: nothing says for which lowers an upper was made.
	ErrNotMade = errors.New("the lowers that it was made for are not recorded")
	// ErrMadeDamaged: what says so makes no sense. It counts as nothing.
	ErrMadeDamaged = errors.New("is damaged")
)

func madePath(dir string) string { return filepath.Join(dir, madeFile) }

// ReadMade reads for which lowers the upper in a directory was made. [ErrNotMade]
// says that this was not written down, and [ErrMadeDamaged] that it cannot be read any more.
func ReadMade(upperDir string) (*Made, error) {
	path := madePath(upperDir)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("upper '%s': %w", upperDir, ErrNotMade)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMade+1))
	if err != nil {
		return nil, err
	}
	m, err := ParseMade(data)
	if err != nil {
		return nil, fmt.Errorf("'%s' %w: %w", path, ErrMadeDamaged, err)
	}
	return m, nil
}

// ParseMade reads the text of a made.json.
func ParseMade(data []byte) (*Made, error) {
	if len(data) > maxMade {
		return nil, fmt.Errorf("it is larger than %d bytes", maxMade)
	}
	var m Made
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	if m.Version != madeVersion {
		return nil, fmt.Errorf("its version is %d, and not %d", m.Version, madeVersion)
	}
	if _, err := storepath.ParseDir(m.StoreDir); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i := range m.Lowers {
		l := &m.Lowers[i]
		if err := l.check(); err != nil {
			return nil, fmt.Errorf("lower %d: %w", i+1, err)
		}
		if seen[l.Name] {
			return nil, fmt.Errorf("lower %d: the name '%s' is taken", i+1, l.Name)
		}
		seen[l.Name] = true
	}
	return &m, nil
}

func (l *MadeLower) check() error {
	if !validName(l.Name) {
		return fmt.Errorf("'%.80s' cannot be its name", l.Name)
	}
	switch l.Kind {
	case KindDirectory, KindImage, KindStore, KindLazy:
	default:
		return fmt.Errorf("unknown kind '%.80s'", l.Kind)
	}
	if l.Image != nil && (l.Image.Header.Algorithm() != nixhash.SHA256 || l.Image.Bytes < 0) {
		return errors.New("its image has no SHA-256 hash, or a size below zero")
	}
	if l.Database == nil {
		return nil
	}
	if n := len(l.Database.Samples); n > maxSamples {
		return fmt.Errorf("%d samples are more than %d", n, maxSamples)
	}
	for _, s := range l.Database.Samples {
		if _, err := storepath.ParseBase(s.Path); err != nil {
			return err
		}
		if s.NarHash.Algorithm() != nixhash.SHA256 {
			return fmt.Errorf("the hash of '%s' is no SHA-256", s.Path)
		}
	}
	return nil
}

// Write makes it the record of the upper in a directory. It is on disk when this
// returns; until then the old one is.
func (m *Made) Write(upperDir string) error {
	m.Version, m.Written = madeVersion, time.Now().UTC().Truncate(time.Millisecond)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := writeDurably(madePath(upperDir), append(text, '\n')); err != nil {
		return fmt.Errorf("recording what the upper was made for: %w", err)
	}
	crashpoint.Reached("stack: what the upper was made for recorded")
	return nil
}

// writeDurably puts a file in place in one step, and on disk.
func writeDurably(path string, data []byte) (err error) {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) //nolint:gosec // no secrets
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
