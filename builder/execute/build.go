package execute

// Executor builds derivations in one store with one set of settings. It is cheap
// to make, has nothing to close, and may build any number of jobs at once.
type Executor struct {
	s Store
	o Options
}

// New makes an Executor.
func New(s Store, o Options) *Executor { return &Executor{s: s, o: o} }
