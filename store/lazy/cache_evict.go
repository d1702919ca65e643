package lazy

// added notes that an object has come.
func (c *Cache) added(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rough >= 0 {
		c.rough += bytes
	}
}
