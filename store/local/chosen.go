package local

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// chosen remembers what options came of settings: clients send all of theirs when they
// connect, and mostly the same. A nil one remembers nothing.
type chosen struct {
	mu      sync.Mutex
	options map[string]Options // by settingsKey
}

// Limits of what is remembered.
const (
	maxChosen    = 64
	maxChosenKey = 4096 // bytes
)

// override is Options.override for always the same options. What it gives is shared and
// must not be changed.
func (c *chosen) override(o Options, settings map[string]string) (Options, error) {
	key, ok := settingsKey(settings)
	if c == nil || !ok {
		return o.override(settings)
	}
	c.mu.Lock()
	known, ok := c.options[key]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	changed, err := o.override(settings)
	if err != nil {
		return changed, err // which has to be told each time
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options == nil || len(c.options) >= maxChosen {
		c.options = map[string]Options{}
	}
	c.options[key] = changed
	return changed, nil
}

// settingsKey spells settings, different ones differently. False: what comes of them is
// not to be remembered, since it also depends on files or takes much room.
func settingsKey(settings map[string]string) (string, bool) {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := settings[name]
		if strings.HasSuffix(name, "secret-key-files") || len(b)+len(name)+len(value) > maxChosenKey {
			return "", false
		}
		b = strconv.AppendInt(b, int64(len(name)), 10)
		b = append(b, ' ')
		b = append(b, name...)
		b = strconv.AppendInt(b, int64(len(value)), 10)
		b = append(b, ' ')
		b = append(b, value...)
	}
	return string(b), true
}
