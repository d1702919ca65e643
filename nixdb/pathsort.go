package nixdb

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"os"
	"slices"
)

// A pathSort sorts paths with a number each. It keeps a part in memory and the rest, in sorted runs, in a
// temporary file without a name.
type pathSort struct {
	dir   string // for the file
	limit int    // bytes in memory

	text []byte // of the paths, one after the other
	refs []pathRef
	file *os.File // nil until something does not fit into memory
	runs []int64  // where each ends in the file
}

// pathRef is a path in memory, with its first bytes to compare.
type pathRef struct {
	first uint64
	at    uint32
	size  uint32
	id    int64
}

// pathSortBytes is how much of the paths is sorted in memory: room for some 100,000.
const pathSortBytes = 8 << 20

func (s *pathSort) add(path string, id int64) error {
	if len(s.text)+len(path) > s.limit && len(s.refs) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	var first [8]byte
	copy(first[:], path)
	s.refs = append(s.refs, pathRef{first: binary.BigEndian.Uint64(first[:]), at: uint32(len(s.text)), size: uint32(len(path)), id: id})
	s.text = append(s.text, path...)
	return nil
}

func (s *pathSort) path(r pathRef) []byte { return s.text[r.at : r.at+r.size] }

func (s *pathSort) sort() {
	slices.SortFunc(s.refs, func(a, b pathRef) int {
		if a.first != b.first {
			return cmp.Compare(a.first, b.first)
		}
		return cmp.Or(bytes.Compare(s.path(a), s.path(b)), cmp.Compare(a.id, b.id))
	})
}

// spill writes what is in memory to the file.
func (s *pathSort) spill() (err error) {
	if s.file == nil {
		if s.file, err = os.CreateTemp(s.dir, "sorting-"); err != nil {
			return err
		}
		if err := os.Remove(s.file.Name()); err != nil {
			return err
		}
	}
	s.sort()
	w := bufio.NewWriterSize(s.file, 256<<10)
	var head []byte
	for _, r := range s.refs {
		head = binary.AppendUvarint(binary.AppendUvarint(head[:0], uint64(r.size)), uint64(r.id))
		_, _ = w.Write(head) // Flush tells
		_, _ = w.Write(s.path(r))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	end, err := s.file.Seek(0, io.SeekCurrent)
	s.runs = append(s.runs, end)
	s.text, s.refs = s.text[:0], s.refs[:0]
	return err
}

// sorted gives all paths in their order, those that are equal in the order of their numbers. A path is good
// until the next one.
func (s *pathSort) sorted() iter.Seq2[sortedPath, error] {
	return func(yield func(sortedPath, error) bool) {
		s.sort()
		runs := runHeap{{next: s.fromMemory()}}
		from := int64(0)
		for _, end := range s.runs {
			r := bufio.NewReaderSize(io.NewSectionReader(s.file, from, end-from), 64<<10)
			runs = append(runs, &sortedRun{next: fromFile(r)})
			from = end
		}
		var err error
		runs = slices.DeleteFunc(runs, func(r *sortedRun) bool {
			end, rerr := r.advance()
			err = errors.Join(err, rerr)
			return end
		})
		heap.Init(&runs)
		for err == nil && len(runs) > 0 {
			if !yield(runs[0].cur, nil) {
				return
			}
			var end bool
			if end, err = runs[0].advance(); end {
				heap.Pop(&runs)
			} else {
				heap.Fix(&runs, 0)
			}
		}
		if err != nil {
			yield(sortedPath{}, err)
		}
	}
}

// sortedPath is a path with its number.
type sortedPath struct {
	path []byte
	id   int64
}

// sortedRun is a part that is sorted, and the first that is left of it.
type sortedRun struct {
	cur  sortedPath
	next func(*sortedPath) error // io.EOF behind the last
}

func (r *sortedRun) advance() (end bool, err error) {
	err = r.next(&r.cur)
	if err == io.EOF { //nolint:errorlint // of next itself
		return true, nil
	}
	return err != nil, err
}

func (s *pathSort) fromMemory() func(*sortedPath) error {
	i := 0
	return func(p *sortedPath) error {
		if i == len(s.refs) {
			return io.EOF
		}
		p.path, p.id = s.path(s.refs[i]), s.refs[i].id
		i++
		return nil
	}
}

func fromFile(r *bufio.Reader) func(*sortedPath) error {
	return func(p *sortedPath) error {
		size, err := binary.ReadUvarint(r)
		if err != nil {
			return err
		}
		id, err := binary.ReadUvarint(r)
		if err != nil {
			return unexpectedEnd(err)
		}
		p.path, p.id = slices.Grow(p.path[:0], int(size))[:size], int64(id)
		_, err = io.ReadFull(r, p.path)
		return unexpectedEnd(err)
	}
}

func unexpectedEnd(err error) error {
	if err == io.EOF { //nolint:errorlint // of a reader
		return io.ErrUnexpectedEOF
	}
	return err
}

// close gives the file back.
func (s *pathSort) close() {
	if s.file != nil {
		_ = s.file.Close() // nobody reads it any more
	}
}

// runHeap is runs, the least first.
type runHeap []*sortedRun

func (h runHeap) Len() int      { return len(h) }
func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h runHeap) Less(i, j int) bool {
	return cmp.Or(bytes.Compare(h[i].cur.path, h[j].cur.path), cmp.Compare(h[i].cur.id, h[j].cur.id)) < 0
}
func (h *runHeap) Push(x any) { *h = append(*h, x.(*sortedRun)) }

func (h *runHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
