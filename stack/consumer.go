package stack

import (
	"crypto/sha256"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/internal/userns"
	"github.com/strata-nix/strata/lease"
	"github.com/strata-nix/strata/nixhash"
)

// consumer checks the name under which owners of lowers know the stack, or makes
// one: the same each time on this machine with this upper, and nobody else's.
func (r *resolver) consumer(c *Config) {
	if c.Consumer != "" {
		if err := lease.CheckConsumer(c.Consumer); err != nil {
			r.fail("consumer", "%v", err)
		}
		return
	}
	sum := sha256.Sum256([]byte(machine() + "\x00" + c.Upper.Dir))
	c.Consumer = c.Name + "-" + nixhash.EncodeNix32(sum[:8])
}

// machine tells this machine from others: by its machine-id, or else its name.
func machine() string {
	if id, err := os.ReadFile("/etc/machine-id"); err == nil && len(strings.TrimSpace(string(id))) >= 32 {
		return strings.TrimSpace(string(id))
	}
	return hostname()
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	return name
}

// holder says in words who has the leases and roots of this stack. It stays the same
// as long as the stack does, within the user namespace of an ordinary user's and outside of it.
func (c *Config) holder() string {
	who := ""
	if u, err := user.LookupId(strconv.Itoa(userns.OuterUID(os.Geteuid()))); err == nil {
		who = u.Username + "@"
	}
	return who + hostname() + ":" + c.Upper.Dir
}

// absoluteLeases makes the place of leases absolute if it is a directory.
func absoluteLeases(place *string, dir string) {
	if *place != "" && !strings.Contains(*place, "://") && !filepath.IsAbs(*place) {
		*place = filepath.Join(dir, *place)
	}
}
