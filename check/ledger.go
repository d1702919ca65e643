package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nixdb"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// line is one name with what each layer has of it.
type line struct {
	name string
	kind nameKind
	path storepath.Path // that the name is of or belongs to; may be zero
	at   []presence     // of the layers
}

// presence is what a layer has of a name.
type presence struct {
	row  bool         // it is valid there
	hash nixhash.Hash // of its NAR, if the row can be understood
	typ  uint8        // unix.DT_* of the entry; 0: there is none
	// unknown: the layer could not tell. The rest means nothing then.
	unknown bool
}

// object tells whether there is an object: an entry that is no whiteout.
func (p presence) object() bool { return p.typ != 0 && p.typ != unix.DT_CHR }

// lower gives the first lower layer of which f is true, 0 if there is none.
func (l *line) lower(f func(presence) bool) int {
	for i := 1; i < len(l.at); i++ {
		if f(l.at[i]) {
			return i
		}
	}
	return 0
}

// certain tells whether all layers could tell.
func (l *line) certain() bool {
	for _, p := range l.at {
		if p.unknown {
			return false
		}
	}
	return true
}

// linesAtOnce is how many names are looked at together.
const linesAtOnce = 512

// eachLine goes through the names of all layers that are checked, in their order, and
// hands them to f in batches. It compares sorted rows with sorted directories, so that
// it reads everything once and needs memory for neither.
func (x *examination) eachLine(ctx context.Context, f func(context.Context, []line) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the readers
	cursors := make([]*layerCursor, len(x.Layers))
	for i := range x.Layers {
		if !x.listed(i) {
			continue
		}
		cursors[i] = x.openLayer(ctx, i)
		defer cursors[i].close()
	}
	b := newBatch(linesAtOnce, len(x.Layers))
	for {
		name, any := "", false
		for _, c := range cursors {
			if n, ok := c.peek(); ok && (!any || n < name) {
				name, any = n, true
			}
		}
		if any {
			l := b.add(name)
			for i, c := range cursors {
				if c != nil {
					l.at[i] = c.take(ctx, name)
				}
			}
		}
		if full := len(b.lines) == cap(b.lines); full || !any && len(b.lines) > 0 {
			x.ask(ctx, b.lines, x.listed)
			if err := f(ctx, b.lines); err != nil {
				return err
			}
			b.reset()
		}
		if !any {
			return context.Cause(ctx)
		}
	}
}

// linesOf looks at names now, in all layers.
func (x *examination) linesOf(ctx context.Context, names []string) []line {
	b := newBatch(len(names), len(x.Layers))
	for _, n := range names {
		b.add(n)
	}
	x.ask(ctx, b.lines, nil)
	return b.lines
}

// batch is room for lines.
type batch struct {
	lines []line
	at    []presence
	width int
}

func newBatch(n, width int) *batch {
	return &batch{lines: make([]line, 0, n), at: make([]presence, n*width), width: width}
}

func (b *batch) add(name string) *line {
	n := len(b.lines)
	b.lines = b.lines[:n+1]
	kind, p := kindOf(name)
	b.lines[n] = line{name: name, kind: kind, path: p, at: b.at[n*b.width : (n+1)*b.width]}
	return &b.lines[n]
}

func (b *batch) reset() {
	clear(b.at)
	b.lines = b.lines[:0]
}

// ask asks the layers that are not known yet about lines: the first about all, the
// others about what concerns the first. Without known all are asked about all.
func (x *examination) ask(ctx context.Context, lines []line, known func(layer int) bool) {
	for i := range x.Layers {
		if known != nil && known(i) {
			continue
		}
		if x.Layers[i].Gone {
			for n := range lines {
				lines[n].at[i] = presence{unknown: true}
			}
			continue
		}
		if err := x.askLayer(ctx, i, lines, i > 0 && known != nil); err != nil {
			for n := range lines {
				lines[n].at[i] = presence{unknown: true}
			}
			x.couldNotTell(ctx, fmt.Errorf("%s: %w", x.Layers[i].Name, err))
		}
	}
}

func (x *examination) askLayer(ctx context.Context, i int, lines []line, ofUpper bool) error {
	layer := &x.Layers[i]
	var asked []*line
	var paths []storepath.Path
	for n := range lines {
		l := &lines[n]
		if ofUpper && !l.at[0].row && l.at[0].typ == 0 {
			continue
		}
		asked = append(asked, l)
		if p, err := storepath.ParseBase(l.name); err == nil {
			paths = append(paths, p)
		}
	}
	rows, err := layer.lookUp(ctx, paths)
	if err != nil {
		return err
	}
	for _, l := range asked {
		if _, err := storepath.ParseBase(l.name); err == nil {
			l.at[i] = presence{row: rows[0].ID != 0, hash: rows[0].NarHash}
			rows = rows[1:]
		}
		if l.at[i].typ, err = typeAt(filepath.Join(layer.Dir, l.name)); err != nil {
			return err
		}
	}
	return nil
}

// typeAt is the unix.DT_* of what is at a path, 0 if that is nothing.
func typeAt(path string) (uint8, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case err == nil:
		return typeOf(st.Mode), nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENAMETOOLONG):
		return 0, nil
	}
	return 0, &os.PathError{Op: "lstat", Path: path, Err: err}
}

// lookUp gives the rows of paths; one without an ID is not there.
func (l *Layer) lookUp(ctx context.Context, paths []storepath.Path) ([]nixdb.Row, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	if l.DB != nil {
		return l.DB.LookUp(ctx, paths)
	}
	infos, err := l.Store.PathInfos(ctx, paths)
	if err != nil {
		return nil, err
	}
	rows := make([]nixdb.Row, len(paths))
	for i, info := range infos {
		if rows[i].Path = paths[i]; info != nil {
			rows[i] = nixdb.Row{ID: 1, Path: paths[i], NarHash: info.NarHash, NarSize: info.NarSize}
		}
	}
	return rows, nil
}

// layerCursor goes through the rows and the directory of a layer together.
type layerCursor struct {
	x     *examination
	layer int

	pages   chan rowPage
	rows    []nixdb.Row
	entries *entries
	entry   entry
	more    bool // entry is one
	broken  bool // something could not be read
	readers sync.WaitGroup
	stop    context.CancelFunc
}

type rowPage struct {
	rows []nixdb.Row
	err  error
}

// openLayer begins to read a layer; the rows come while the directory is sorted.
func (x *examination) openLayer(ctx context.Context, i int) *layerCursor {
	layer := &x.Layers[i]
	rowCtx, stop := context.WithCancel(ctx)
	c := &layerCursor{x: x, layer: i, pages: make(chan rowPage, 4), stop: stop}
	c.readers.Go(func() {
		defer close(c.pages)
		for rows, err := range layer.DB.SortedRows(rowCtx, storepath.Path{}) {
			select {
			case c.pages <- rowPage{rows, err}:
			case <-rowCtx.Done():
				return
			}
		}
	})
	var err error
	if c.entries, err = readEntries(ctx, layer.Dir, runBytes); err != nil {
		c.fail(ctx, err)
	}
	c.nextEntry(ctx)
	c.nextRows(ctx)
	return c
}

func (c *layerCursor) close() {
	c.stop()
	for range c.pages { // lets the reader end
	}
	c.readers.Wait()
	c.entries.close()
}

// fail notes that the layer cannot tell any more.
func (c *layerCursor) fail(ctx context.Context, err error) {
	c.broken, c.rows, c.more = true, nil, false
	c.x.couldNotTell(ctx, fmt.Errorf("%s: %w", c.x.Layers[c.layer].Name, err))
}

func (c *layerCursor) nextRows(ctx context.Context) {
	for len(c.rows) == 0 {
		page, ok := <-c.pages
		if !ok {
			return
		}
		if page.err != nil {
			c.fail(ctx, page.err)
			return
		}
		c.rows = page.rows
		c.x.report.Layers[c.layer].Rows += int64(len(c.rows))
	}
}

func (c *layerCursor) nextEntry(ctx context.Context) {
	if c.broken {
		return
	}
	var err error
	if c.entry, c.more, err = c.entries.next(); err != nil {
		c.fail(ctx, err)
	}
	if c.more {
		c.x.report.Layers[c.layer].Entries++
	}
}

// peek gives the next name of the layer.
func (c *layerCursor) peek() (string, bool) {
	if c == nil {
		return "", false
	}
	if len(c.rows) == 0 {
		return c.entry.name, c.more
	}
	if name := c.rows[0].Path.Base(); !c.more || name < c.entry.name {
		return name, true
	}
	return c.entry.name, true
}

// take gives what the layer has of a name that is not behind the next one.
func (c *layerCursor) take(ctx context.Context, name string) (p presence) {
	if len(c.rows) > 0 && c.rows[0].Path.Base() == name {
		p.row, p.hash = true, c.rows[0].NarHash
		c.rows = c.rows[1:]
		c.nextRows(ctx)
	}
	if c.more && c.entry.name == name {
		p.typ = c.entry.typ
		c.nextEntry(ctx)
	}
	if c.broken {
		return presence{unknown: true}
	}
	return p
}
