package pivot

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// Phase is how far a job has come.
type Phase string

// The phases.
const (
	Planned   Phase = "planned"   // copies are being made, aside
	Staged    Phase = "staged"    // all copies are made
	Committed Phase = "committed" // from here on only forward
	Applied   Phase = "applied"   // the upper is made for the new lowers; something lies about
)

// canRollBack tells whether the upper still is what it was.
func (p Phase) canRollBack() bool { return p == Planned || p == Staged }

// Header is the first line of a journal.
type Header struct {
	Version  int       `json:"version"` // journalVersion
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	StoreDir string    `json:"storeDir"`
	Old      []string  `json:"old"`
	Gone     []string  `json:"gone,omitempty"`
	New      []string  `json:"new"`
	// Target says which lowers the new ones are, for who mounts them.
	Target json.RawMessage `json:"target,omitempty"`
	// Phase is not in this line, but in those at the end.
	Phase Phase `json:"-"`
}

// ErrNoJob: no job is under way.
var ErrNoJob = errors.New("no pivot is under way")

// ErrJournal is the cause of every error about a file that is no journal of a pivot.
var ErrJournal = errors.New("malformed pivot journal")

const (
	journalVersion = 1
	// maxLine is the most bytes of one line. A row with ten thousand references has a
	// tenth of it.
	maxLine = 8 << 20
)

// journal is what a journal says.
type journal struct {
	Header
	copies                               []copyItem
	put                                  []Row
	drop                                 []storepath.Path
	aside, remove, white, unbind, opaque []string
	unlink                               []string
	size                                 int64 // bytes up to the end of the last whole line
}

// copyItem is an object that is copied.
type copyItem struct {
	path storepath.Path
	hash nixhash.Hash
	size uint64
	from string
}

// newJournal is the journal of a plan.
func newJournal(dir storepath.Dir, p *Plan, target json.RawMessage) *journal {
	j := &journal{Header: Header{
		Version: journalVersion, ID: rand.Text(), Created: time.Now().UTC().Truncate(time.Second), StoreDir: string(dir),
		Old: p.Old, Gone: p.Gone, New: p.New, Target: target, Phase: Planned,
	}}
	for _, c := range p.Copies {
		j.copies = append(j.copies, copyItem{c.Info.Path, c.Info.NarHash, c.Info.NarSize, c.From})
	}
	j.put = append(append(j.put, p.Changed...), p.Added...)
	j.drop = append(j.drop, p.Dropped...)
	for _, o := range p.Removed {
		j.drop, j.remove = append(j.drop, o.Path), append(j.remove, o.Path.Base())
	}
	for _, o := range p.Duplicates {
		j.remove = append(j.remove, o.Path.Base())
	}
	j.aside = append(append(j.aside, p.Parts...), p.Hiding...)
	j.white, j.unbind, j.opaque = p.Whiteouts, p.Bound, p.Merged
	for _, r := range p.LostRoots {
		if r.Removed {
			j.unlink = append(j.unlink, r.Link)
		}
	}
	return j
}

// lines are those between the first and the phases.
func (j *journal) lines(yield func(line) bool) {
	ok, n := true, 0
	put := func(l line) {
		if ok {
			ok, n = yield(l), n+1
		}
	}
	for _, c := range j.copies {
		put(line{Copy: &copyLine{Path: c.path.Base(), NarHash: c.hash, NarSize: c.size, From: c.from}})
	}
	for _, r := range j.put {
		put(line{Put: rowToLine(r)})
	}
	for _, p := range j.drop {
		put(line{Drop: p.Base()})
	}
	for _, list := range []struct {
		names []string
		line  func(string) line
	}{
		{j.aside, func(s string) line { return line{Aside: s} }},
		{j.remove, func(s string) line { return line{Remove: s} }},
		{j.white, func(s string) line { return line{White: s} }},
		{j.unbind, func(s string) line { return line{Unbind: s} }},
		{j.opaque, func(s string) line { return line{Opaque: s} }},
		{j.unlink, func(s string) line { return line{Unlink: s} }},
	} {
		for _, s := range list.names {
			put(list.line(s))
		}
	}
	put(line{Entries: &n})
}

// encode writes a journal that has come to no phase yet.
func (j *journal) encode(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(j.Header); err != nil {
		return err
	}
	for l := range j.lines {
		if err := e.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

// decode reads a journal. A last line that is not whole is one that was being written when
// the machine stopped, and counts for nothing.
func decode(r io.Reader) (*journal, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	j := &journal{}
	complete := false
	for n := 0; ; n++ {
		text, err := readLine(br)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && n == 0 {
			err = j.readHeader(text)
		} else if err == nil {
			err = j.readLine(text, n-1, &complete)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrJournal, n+1, err)
		}
		j.size += int64(len(text)) + 1
	}
	if !complete {
		return nil, fmt.Errorf("%w: it has no end", ErrJournal)
	}
	return j, nil
}

// readLine reads up to a newline; io.EOF also for a last line without one.
func readLine(br *bufio.Reader) ([]byte, error) {
	var all []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(all)+len(part) > maxLine {
			return nil, fmt.Errorf("it has more than %d bytes", maxLine)
		}
		all = append(all, part...)
		if err == nil {
			return all[:len(all)-1], nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

func (j *journal) readHeader(text []byte) error {
	if err := json.Unmarshal(text, &j.Header); err != nil {
		return err
	}
	if j.Version != journalVersion {
		return fmt.Errorf("version %d, and not %d", j.Version, journalVersion)
	}
	_, err := storepath.ParseDir(j.StoreDir)
	j.Phase = Planned
	return err
}

func (j *journal) readLine(text []byte, before int, complete *bool) error {
	var l line
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return err
	}
	if *complete {
		return j.readPhase(l.Phase)
	}
	switch {
	case l.Copy != nil:
		p, err := storepath.ParseBase(l.Copy.Path)
		if err == nil && l.Copy.NarHash.Algorithm() != nixhash.SHA256 {
			err = errors.New("its hash is no SHA-256")
		}
		j.copies = append(j.copies, copyItem{p, l.Copy.NarHash, l.Copy.NarSize, l.Copy.From})
		return err
	case l.Put != nil:
		r, err := l.Put.row()
		j.put = append(j.put, r)
		return err
	case l.Drop != "":
		p, err := storepath.ParseBase(l.Drop)
		j.drop = append(j.drop, p)
		return err
	case l.Unlink != "":
		j.unlink = append(j.unlink, l.Unlink)
		if !filepath.IsAbs(l.Unlink) || filepath.Clean(l.Unlink) != l.Unlink {
			return fmt.Errorf("'%.200s' is no absolute path", l.Unlink)
		}
		return nil
	case l.Entries != nil:
		*complete = true
		if *l.Entries != before {
			return fmt.Errorf("there are %d entries before it, and not %d", before, *l.Entries)
		}
		return nil
	}
	return j.readEntry(&l)
}

// readEntry reads a line about an entry of the layer.
func (j *journal) readEntry(l *line) error {
	for _, e := range []struct {
		name string
		list *[]string
	}{{l.Aside, &j.aside}, {l.Remove, &j.remove}, {l.White, &j.white}, {l.Unbind, &j.unbind}, {l.Opaque, &j.opaque}} {
		if e.name == "" {
			continue
		}
		if strings.ContainsAny(e.name, "/\x00") || e.name == "." || e.name == ".." {
			return fmt.Errorf("'%.200s' is no name of a file", e.name)
		}
		*e.list = append(*e.list, e.name)
		return nil
	}
	return errors.New("it says nothing")
}

func (j *journal) readPhase(p Phase) error {
	switch p {
	case Staged, Committed, Applied:
		j.Phase = p
		return nil
	}
	return fmt.Errorf("unknown phase '%.80s'", p)
}

// load reads the journal in a file. [ErrNoJob] says that there is none.
func load(path string) (*journal, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoJob
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	j, err := decode(f)
	if err != nil {
		return nil, fmt.Errorf("'%s': %w", path, err)
	}
	return j, nil
}

// Peek tells of the job that is under way by a journal. [ErrNoJob] says that there is
// none.
func Peek(path string) (*Header, error) {
	j, err := load(path)
	if err != nil {
		return nil, err
	}
	return &j.Header, nil
}
