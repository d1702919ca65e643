package local

// SetFreeSpace makes automatic collections believe that so much of the disk is free.
func (s *Store) SetFreeSpace(free func() uint64) {
	s.auto.mu.Lock()
	defer s.auto.mu.Unlock()
	s.auto.free = func(string) (uint64, error) { return free(), nil }
}
