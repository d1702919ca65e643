package lazy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/fusefs"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/narinfo"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// Lines of an info that a narinfo has not.
const (
	diskSizeField = "DiskSize: "
	originField   = "Origin: "
)

// keptInfo is what is known of an object that is here.
type keptInfo struct {
	info   store.PathInfo
	disk   int64  // bytes
	origin string // the URI of where it came from
}

// infoText is what is kept of an object beside it: its narinfo as it was believed, and what it
// takes on disk.
func (st *stage) infoText() ([]byte, error) {
	ni := narinfo.NarInfo{PathInfo: *st.info, URL: objectsDir + "/" + st.info.Path.Base(), Compression: "none"}
	text, err := ni.Text(st.c.o.StoreDir)
	if err != nil {
		return nil, err
	}
	text = append(text, diskSizeField+strconv.FormatInt(diskSize(st.tree), 10)+"\n"...)
	if !strings.ContainsAny(st.origin, "\n\r") {
		text = append(text, originField+st.origin+"\n"...)
	}
	return text, nil
}

// Info is what is known of an object that is here, fs.ErrNotExist if it is not.
func (c *Cache) Info(p storepath.Path) (*store.PathInfo, error) {
	if !c.Has(p) {
		return nil, fmt.Errorf("object '%s' of the cache: %w", p, fs.ErrNotExist)
	}
	kept, err := c.readInfo(p)
	if err != nil {
		return nil, err
	}
	return &kept.info, nil
}

// readInfo reads the info of an object.
func (c *Cache) readInfo(p storepath.Path) (*keptInfo, error) {
	name := c.at(infoDir, p.Base())
	text, err := readSmall(name, narinfo.MaxSize)
	if err != nil {
		return nil, err
	}
	ni, err := narinfo.Parse(c.o.StoreDir, name, text)
	if err != nil {
		return nil, err
	}
	if ni.Path != p {
		return nil, fmt.Errorf("'%s' is about another path, '%s'", name, ni.Path)
	}
	return &keptInfo{info: ni.PathInfo, disk: parseDiskSize(text), origin: field(text, originField)}, nil
}

// holds refuses an object that is here and not the one that is meant.
func (c *Cache) holds(info *store.PathInfo) error {
	if _, staged := c.stagedAt(info.Path); staged || !c.Has(info.Path) {
		return nil
	}
	kept, err := c.readInfo(info.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the info comes first and goes last; it has just been evicted
	}
	if err != nil {
		return err
	}
	if kept.info.NarHash != info.NarHash {
		return fmt.Errorf("'%s' has another object by the name '%s', from '%s', which nobody vouches for", c.o.Dir, info.Path, kept.origin)
	}
	return nil
}

// parseDiskSize finds the size in an info; 0 if it has none.
func parseDiskSize(text []byte) int64 {
	n, err := strconv.ParseInt(field(text, diskSizeField), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// field finds the value of a line; "" if there is none.
func field(text []byte, name string) string {
	for line := range bytes.Lines(text) {
		if v, ok := strings.CutPrefix(string(line), name); ok {
			return strings.TrimSuffix(v, "\n")
		}
	}
	return ""
}

// readSmall reads a file of at most limit bytes.
func readSmall(name string, limit int64) ([]byte, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.Size() > limit {
		return nil, fmt.Errorf("'%s' has %d bytes, more than %d", name, fi.Size(), limit)
	}
	return os.ReadFile(name)
}

// diskSize is about what an object takes on disk, in bytes: whole blocks for files and
// directories, and something for each name.
func diskSize(t *fusefs.Tree) (sum int64) {
	const block = 4096
	for n := range t.Len() {
		switch node := t.Node(n); node.Kind {
		case fusefs.Directory:
			sum += block
		case fusefs.Regular, fusefs.Executable:
			sum += (node.Size + block - 1) / block * block
		}
		sum += 256 // an inode
	}
	return sum
}

// maxTree bounds the bytes of an encoded tree: one of 10^7 files with long names.
const maxTree = 1 << 30

// treeHere is that of an object which is here; fs.ErrNotExist if it is not.
func (c *Cache) treeHere(p storepath.Path) (*fusefs.Tree, error) {
	c.mu.Lock()
	st := c.staged[p]
	c.mu.Unlock()
	if st != nil {
		return st.tree, nil
	}
	if !c.Has(p) {
		return nil, fs.ErrNotExist
	}
	t, err := readTree(c.at(treesDir, p.Base()))
	if err == nil {
		return t, nil
	}
	// The object itself is what counts, and says the same.
	l, lerr := nar.ListTree(context.Background(), c.at(objectsDir, p.Base()))
	if lerr != nil {
		if errors.Is(lerr, fs.ErrNotExist) && !c.Has(p) {
			return nil, fs.ErrNotExist // it has just been evicted
		}
		return nil, lerr
	}
	c.o.Log.Warn(fmt.Sprintf("the tree of an object is made again: %v", err))
	if t, err = treeOfListing(l); err != nil {
		return nil, err
	}
	return t, replaceFile(c.at(treesDir, p.Base()), t.Encoded())
}

// readTree reads an encoded tree.
func readTree(name string) (*fusefs.Tree, error) {
	data, err := readSmall(name, maxTree)
	if err != nil {
		return nil, err
	}
	t, err := fusefs.DecodeTree(data)
	if err != nil {
		return nil, fmt.Errorf("'%s': %w", name, err)
	}
	return t, nil
}

// keptListing is the tree of an object as its listing told, fs.ErrNotExist if none is kept.
func (c *Cache) keptListing(p storepath.Path) (*fusefs.Tree, error) {
	return readTree(c.at(listingsDir, p.Base()))
}

// keepListing keeps one, for the next process that serves the same mount.
func (c *Cache) keepListing(p storepath.Path, t *fusefs.Tree) {
	err := replaceFile(c.at(listingsDir, p.Base()), t.Encoded())
	if err != nil && !errors.Is(err, fs.ErrExist) {
		c.o.Log.Warn(fmt.Sprintf("a listing is not kept: %v", err))
	}
}
