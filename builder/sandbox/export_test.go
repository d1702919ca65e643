package sandbox

// KeeperPid is the number of the keeper, for tests that attack it.
func (p *Process) KeeperPid() int { return p.keeper.Pid }

// EndUser is endUser.
func EndUser(uid uint32) error { return endUser(uid) }
