package objstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strconv"
	"sync"
)

// Memory is storage that nothing stays of.
type Memory struct {
	mu      sync.RWMutex
	objects map[string]memoryObject
	version int // of the object that was stored last
}

type memoryObject struct {
	info Info
	data []byte // nobody changes it
}

// NewMemory makes an empty storage.
func NewMemory() *Memory { return &Memory{objects: map[string]memoryObject{}} }

func (m *Memory) get(name string) (memoryObject, error) {
	if err := CheckName(name); err != nil {
		return memoryObject{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[name]
	if !ok {
		return memoryObject{}, fmt.Errorf("'%s': %w", name, ErrNotExist)
	}
	return o, nil
}

// Get opens an object.
func (m *Memory) Get(_ context.Context, name string, o GetOptions) (io.ReadCloser, Info, error) {
	obj, err := m.get(name)
	if err != nil {
		return nil, Info{}, err
	}
	if o.ETag != "" && o.ETag != obj.info.ETag {
		return nil, Info{}, fmt.Errorf("'%s': %w", name, ErrChanged)
	}
	from, n, err := part(name, obj.info.Size, o)
	if err != nil {
		return nil, Info{}, err
	}
	return io.NopCloser(bytes.NewReader(obj.data[from : from+n])), obj.info, nil
}

// part gives where the wanted part of an object of known size begins, and its
// length.
func part(name string, size int64, o GetOptions) (from, n int64, err error) {
	if o.Offset < 0 || o.Length < 0 || o.Offset > size || (o.Offset == size && size > 0) {
		return 0, 0, fmt.Errorf("'%s': no %d bytes at %d in %d", name, o.Length, o.Offset, size)
	}
	n = size - o.Offset
	if o.Length > 0 {
		n = min(n, o.Length)
	}
	return o.Offset, n, nil
}

// Stat tells about an object.
func (m *Memory) Stat(_ context.Context, name string) (Info, error) {
	obj, err := m.get(name)
	return obj.info, err
}

// Put stores an object.
func (m *Memory) Put(ctx context.Context, name string, body io.Reader, o PutOptions) error {
	if err := CheckName(name); err != nil {
		return err
	}
	data, err := io.ReadAll(&contextReader{ctx, body})
	if err != nil {
		return fmt.Errorf("storing '%s': %w", name, err)
	}
	if err := checkSize(int64(len(data)), o.Size); err != nil {
		return fmt.Errorf("storing '%s': %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.objects[name]; there && o.IfAbsent {
		return nil
	}
	m.version++
	m.objects[name] = memoryObject{
		info: Info{Name: name, Size: int64(len(data)), ETag: strconv.Itoa(m.version), ContentEncoding: o.ContentEncoding},
		data: data,
	}
	return nil
}

// List lists a directory, sorted.
func (m *Memory) List(_ context.Context, dir string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkDir(dir); err != nil {
			yield(Info{}, err)
			return
		}
		m.mu.RLock()
		all := maps.Clone(m.objects)
		m.mu.RUnlock()
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if in, _ := path.Split(name); path.Clean("/"+in) != path.Clean("/"+dir) {
				continue
			}
			if !yield(all[name].info, nil) {
				return
			}
		}
	}
}

// Delete removes an object.
func (m *Memory) Delete(_ context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}
