package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/strata-nix/strata/trust"
)

// settings are the values of nix.conf's settings by name. What is wrong with
// those that are read is told by end.
type settings struct {
	values map[string]string
	errs   []error
}

// readSettings reads nix.conf, the user's, NIX_CONFIG and options, of which the
// later ones win.
func readSettings(env environment, options []string) (*settings, error) {
	s := &settings{values: map[string]string{}}
	if data, err := os.ReadFile(filepath.Join(env.nonEmpty("NIX_CONF_DIR", defaultConfDir), "nix.conf")); err == nil {
		s.parse(string(data))
	}
	text, _ := env("NIX_CONFIG")
	s.parse(text)
	for _, o := range options {
		s.parse(strings.Replace(o, "=", " = ", 1))
	}
	return s, nil
}

func (s *settings) parse(text string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 || f[1] != "=" {
			continue
		}
		value := strings.Join(f[2:], " ")
		if name, ok := strings.CutPrefix(f[0], "extra-"); ok {
			if old, ok := s.values[name]; ok {
				value = old + " " + value
			} else if name == "trusted-users" {
				value = "root " + value
			}
			s.values[name] = value
			continue
		}
		s.values[f[0]] = value
	}
}

func (s *settings) text(name, otherwise string) string {
	if v, ok := s.values[name]; ok {
		return v
	}
	return otherwise
}

func (s *settings) flag(name string, otherwise bool) bool {
	v, ok := s.values[name]
	if !ok {
		return otherwise
	}
	b, ok := parseBool(v)
	if !ok {
		s.errs = append(s.errs, fmt.Errorf("setting '%s' has value '%s', which is neither true nor false", name, v))
	}
	return b
}

func (s *settings) list(name string, otherwise []string) []string {
	if v, ok := s.values[name]; ok {
		return strings.Fields(v)
	}
	return otherwise
}

// keys are trusted-public-keys, and the public halves of secret-key-files.
func (s *settings) keys() trust.Keys {
	keys, err := trust.ParseKeys(s.list("trusted-public-keys", []string{defaultKey}))
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("setting 'trusted-public-keys': %w", err))
	}
	for _, file := range s.list("secret-key-files", nil) {
		text, err := os.ReadFile(file)
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("setting 'secret-key-files': %w", err))
			continue
		}
		key, err := trust.ParseSecretKey(string(text))
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("setting 'secret-key-files': '%s': %w", file, err))
			continue
		}
		keys = keys.WithSecret(key)
	}
	return keys
}

func (s *settings) end() error { return errors.Join(s.errs...) }
