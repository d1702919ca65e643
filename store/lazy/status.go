package lazy

import "sync/atomic"

// counters are what a store has to tell of itself.
type counters struct {
	fetched, bytes, failed, unanswered, lied atomic.Int64
}

// Counts is what happened since a store was opened.
type Counts struct {
	Fetched    int64 `json:"fetched"`    // objects that came from origins, whole
	Bytes      int64 `json:"bytes"`      // of NARs that were read
	Failed     int64 `json:"failed"`     // objects that could not be had, which readers saw as EIO
	Unanswered int64 `json:"unanswered"` // questions about validity that an origin failed to answer
	Lied       int64 `json:"lied"`       // listings that were not those of their objects
}

// Counts tells what happened since the store was opened.
func (s *Store) Counts() Counts {
	return Counts{
		Fetched: s.count.fetched.Load(), Bytes: s.count.bytes.Load(), Failed: s.count.failed.Load(),
		Unanswered: s.count.unanswered.Load(), Lied: s.count.lied.Load(),
	}
}
