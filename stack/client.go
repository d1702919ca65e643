package stack

import (
	"path/filepath"

	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// ClientSocket is where clients find the socket.
func (c *Config) ClientSocket() string {
	if c.ShowState == Yes && c.Socket == c.defaultSocket() {
		return filepath.Join(c.Root, clientState, socketInState)
	}
	return c.Socket
}

// defaultSocket is in the state, where clients look for it. A state in memory may be in
// a mount namespace that they are not in, so that its socket is beside it.
func (c *Config) defaultSocket() string {
	if c.Upper.Tmpfs > 0 {
		return filepath.Join(c.Upper.Dir, socketInState)
	}
	return filepath.Join(c.Upper.State, socketInState)
}

// ClientURI is what clients set NIX_REMOTE to, or give to --store: "daemon" where
// they find everything at the usual places.
func (c *Config) ClientURI() string {
	socket := c.ClientSocket()
	params := map[string][]string{}
	if c.StoreDir != storepath.DefaultDir {
		params["store"] = []string{string(c.StoreDir)}
	}
	switch {
	case c.Mount == string(c.StoreDir):
	case c.Root != "/" && c.Mount == filepath.Join(c.Root, storeInRoot):
		params["root"] = []string{c.Root}
	default:
		params["real"] = []string{c.Mount}
	}
	if len(params) == 0 && socket == filepath.Join(clientState, socketInState) {
		return "daemon"
	}
	return store.Reference{Scheme: "unix", Authority: socket, Params: params}.String()
}
