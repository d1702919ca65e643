package nixdb

// maxCached is how many pages a connection keeps, in some 4 MiB: enough for the
// inner pages of the trees of a million paths.
const maxCached = 1024

// pageCache keeps the pages that were used of late. The zero value is empty.
//
// Which page goes is found by a hand that moves around: it passes over those that
// were asked for again since it came by last, once.
type pageCache struct {
	at    map[uint32]int
	slots []cachedPage
	hand  int
}

type cachedPage struct {
	number uint32 // 0: none
	again  bool
	bytes  []byte
}

// get gives a page, nil if it is not there.
func (c *pageCache) get(n uint32) []byte {
	i, ok := c.at[n]
	if !ok {
		return nil
	}
	c.slots[i].again = true
	return c.slots[i].bytes
}

// room gives the memory for a page that is not there, whose contents the caller has
// to read. Another page may go for it.
func (c *pageCache) room(n uint32, size int) []byte {
	if c.at == nil {
		c.at = make(map[uint32]int)
	}
	i := len(c.slots)
	if i < maxCached {
		c.slots = append(c.slots, cachedPage{bytes: make([]byte, size)})
	} else {
		for i = c.hand; c.slots[i].again; i = (i + 1) % len(c.slots) {
			c.slots[i].again = false
		}
		c.hand = (i + 1) % len(c.slots)
	}
	s := &c.slots[i]
	delete(c.at, s.number)
	s.number, s.again = n, false
	c.at[n] = i
	return s.bytes
}

// drop forgets a page.
func (c *pageCache) drop(n uint32) {
	if i, ok := c.at[n]; ok {
		delete(c.at, n)
		c.slots[i].number, c.slots[i].again = 0, false
	}
}

// clear forgets all pages; their memory is used again.
func (c *pageCache) clear() {
	clear(c.at)
	for i := range c.slots {
		c.slots[i].number, c.slots[i].again = 0, false
	}
}
