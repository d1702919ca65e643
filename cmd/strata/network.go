package main

import (
	"errors"
	"math"
	"path/filepath"
	"sync"
	"time"

	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/narinfo/diskcache"
)

// network is what all stores share that are reached over a network: settings,
// connections, and what binary caches have answered before.
type network struct {
	transfers filetransfer.Options
	client    func() *filetransfer.Client // made when it is first wanted
	disk      func() *diskcache.Cache
	answers   string // the file of the latter, "" if there is none
	ttl       diskcache.TTL
	// connections is how many narinfos are asked for at once.
	connections int

	mu    sync.Mutex
	close []func() error
}

// obeyNetwork maps settings onto options.
func (c *config) obeyNetwork(env environment, s *settings) {
	n := &network{}
	c.network = n
	confDir := env.nonEmpty("NIX_CONF_DIR", "/etc/nix")
	transfers, err := filetransfer.FromConfig(s.Config, confDir)
	s.note(err)
	n.transfers, n.connections = transfers, transfers.Connections
	n.ttl = diskcache.TTL{
		Positive: s.seconds("narinfo-cache-positive-ttl", diskcache.DefaultTTL.Positive),
		Negative: s.seconds("narinfo-cache-negative-ttl", diskcache.DefaultTTL.Negative),
		Meta:     s.seconds("narinfo-cache-meta-ttl", diskcache.DefaultTTL.Meta),
	}
	n.client = sync.OnceValue(func() *filetransfer.Client {
		client := filetransfer.New(transfers)
		n.atEnd(func() error { client.CloseIdle(); return nil })
		return client
	})
	if dir := env.cacheDir(); dir != "" {
		n.answers = filepath.Join(dir, "narinfo-v1.sqlite")
	}
	n.disk = sync.OnceValue(func() *diskcache.Cache { return n.openAnswers(n.ttl) })
}

func (n *network) openAnswers(ttl diskcache.TTL) *diskcache.Cache {
	disk := diskcache.Open(diskcache.Options{File: n.answers, TTL: ttl})
	n.atEnd(disk.Close)
	return disk
}

// destination is the same configuration for a store that is written to: what it
// answered before is not believed, as it may have lost something since. Its answers
// are still kept for others.
func (c *config) destination() *config {
	to, n := *c, c.network
	to.network = &network{
		transfers: n.transfers, client: n.client, ttl: n.ttl, connections: n.connections, answers: n.answers,
		disk: sync.OnceValue(func() *diskcache.Cache { return n.openAnswers(diskcache.TTL{}) }),
	}
	return &to
}

// atEnd notes what is to be given back.
func (n *network) atEnd(f func() error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.close = append(n.close, f)
}

// end gives everything back, when no store is open any more.
func (n *network) end() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var err error
	for _, f := range n.close {
		err = errors.Join(err, f())
	}
	n.close = nil
	return err
}

// end gives back what is shared by the stores that were opened, which are closed
// by now.
func (c *config) end() error {
	return errors.Join(c.pool.Close(), c.network.end())
}

// cacheDir is where answers of binary caches are kept, "" if nowhere.
func (env environment) cacheDir() string {
	if dir := env.dirIn("XDG_CACHE_HOME", ".cache"); dir != "" {
		return filepath.Join(dir, "strata")
	}
	return ""
}

// seconds is a setting that is a time.
func (s *settings) seconds(name string, otherwise time.Duration) time.Duration {
	n, err := s.Uint(name, uint64(otherwise/time.Second))
	s.note(err)
	return time.Duration(min(n, math.MaxInt64/uint64(time.Second))) * time.Second
}

// keyFiles are those of secret-key-files.
func (s *settings) keyFiles() []string { return s.Strings("secret-key-files", nil) }
