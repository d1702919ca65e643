package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/strata-nix/strata/nixconf"
	"github.com/strata-nix/strata/store/local"
	"github.com/strata-nix/strata/trust"
)

// commandLine is where settings of --option come from.
var commandLine = nixconf.Origin{File: "command line"}

// settings are those of nix.conf. What is wrong with them is told by end.
type settings struct {
	*nixconf.Config
	errs []error
}

// readSettings reads nix.conf, the user's, NIX_CONFIG and options, of which the
// later ones win.
func readSettings(env environment, options []string) (*settings, error) {
	c, err := nixconf.Load(nixconf.Env(env))
	if err != nil {
		return nil, err
	}
	s := &settings{Config: c}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		s.note(c.Set(name, value, commandLine))
	}
	return s, s.end()
}

func (s *settings) note(err error) {
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

func (s *settings) end() error { return errors.Join(s.errs...) }

func (s *settings) flag(name string, otherwise bool) bool {
	b, err := s.Bool(name, otherwise)
	s.note(err)
	return b
}

// keys are those that are believed: trusted-public-keys, and what belongs to the
// keys that we sign with ourselves. A secret that we cannot read is somebody
// else's business.
func (s *settings) keys() trust.Keys {
	keys, err := trust.ParseKeys(s.Strings("trusted-public-keys", []string{defaultKey}))
	s.note(prefix("setting 'trusted-public-keys'", err))
	for _, file := range s.keyFiles() {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		key, err := trust.ParseSecretKey(string(text))
		s.note(prefix("setting 'secret-key-files': '"+file+"'", err))
		if err == nil {
			keys = keys.WithSecret(key)
		}
	}
	return keys
}

func prefix(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// autoGC says when garbage is collected without anybody asking.
func (s *settings) autoGC() local.AutoGC {
	a := local.AutoGC{}
	bytes := func(name string) uint64 {
		n, err := s.Uint(name, 0)
		s.note(err)
		return n
	}
	a.MinFree = bytes("min-free")
	if s.IsSet("max-free") {
		n := bytes("max-free")
		a.MaxFree = &n
	}
	every := s.seconds("min-free-check-interval", local.DefaultMinFreeCheckInterval)
	a.CheckInterval = &every
	return a
}
