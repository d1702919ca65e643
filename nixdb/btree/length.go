package btree

// Len counts the entries of an index, without looking at them.
func (t Tree) Len() (int, error) {
	return t.f.length(t.root, &walk{left: t.f.src.Count()})
}

func (f *File) length(page uint32, w *walk) (int, error) {
	if !w.enter() {
		return 0, errCircle
	}
	defer w.leave()
	d, err := f.node(page, false)
	if err != nil {
		return 0, err
	}
	n := d.cells
	if !d.kind.interior() {
		return n, nil
	}
	children := make([]uint32, d.cells+1) // others use the page's memory
	for i := range children {
		if children[i], err = d.child(i); err != nil {
			return 0, err
		}
	}
	for _, child := range children {
		below, err := f.length(child, w)
		if err != nil {
			return 0, err
		}
		n += below
	}
	return n, nil
}
