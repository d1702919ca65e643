package nixconf

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// DefaultDir is where nix.conf is unless NIX_CONF_DIR says otherwise.
const DefaultDir = "/etc/nix"

// Env looks up environment variables, as os.LookupEnv does.
type Env func(name string) (value string, ok bool)

// nonEmpty is for variables that are as good as not set when they are empty.
func (env Env) nonEmpty(name string) (string, bool) {
	v, ok := env(name)
	return v, ok && v != ""
}

// Load reads the configuration as every Nix program does at its start: the
// system's nix.conf, the user's files, NIX_CONFIG. Files that do not exist or
// cannot be read are passed over; what they say must make sense.
func Load(env Env) (*Config, error) {
	c := New()
	dir, ok := env.nonEmpty("NIX_CONF_DIR")
	if !ok {
		dir = DefaultDir
	}
	if err := c.tryFile(filepath.Join(dir, "nix.conf")); err != nil {
		return nil, err
	}
	c.ResetOverridden()
	for _, file := range slices.Backward(UserFiles(env)) {
		if err := c.tryFile(file); err != nil {
			return nil, err
		}
	}
	if text, ok := env("NIX_CONFIG"); ok {
		if err := c.ApplyText("NIX_CONFIG", text); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Config) tryFile(file string) error {
	if err := c.ApplyFile(file); errors.Is(err, ErrConfig) {
		return err
	}
	return nil
}

// UserFiles are the user's files, the most important first: those of
// NIX_USER_CONF_FILES, or nix.conf in the XDG configuration directories.
func UserFiles(env Env) []string {
	if list, ok := env("NIX_USER_CONF_FILES"); ok {
		var files []string
		if list != "" {
			for f := range strings.SplitSeq(list, ":") {
				files = append(files, filepath.Clean(f)) // "" is "."
			}
		}
		return files
	}
	var files []string
	if dir, ok := userDir(env); ok {
		files = append(files, filepath.Join(dir, "nix.conf"))
	}
	dirs, ok := env("XDG_CONFIG_DIRS")
	if !ok {
		dirs = "/etc/xdg"
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		if dir != "" {
			files = append(files, filepath.Join(dir, "nix", "nix.conf"))
		}
	}
	return files
}

// userDir is the user's own directory of Nix's configuration.
func userDir(env Env) (string, bool) {
	if dir, ok := env("NIX_CONFIG_HOME"); ok {
		return dir, true
	}
	if dir, ok := env("XDG_CONFIG_HOME"); ok {
		return filepath.Join(dir, "nix"), true
	}
	home, ok := homeDir(env)
	return filepath.Join(home, ".config", "nix"), ok
}

// homeDir is HOME unless that belongs to somebody else, as it does under sudo:
// his configuration is not to be obeyed with our rights.
func homeDir(env Env) (string, bool) {
	home, ok := env("HOME")
	if ok {
		fi, err := os.Stat(home)
		if errors.Is(err, os.ErrNotExist) {
			return home, true
		}
		if err == nil {
			if st, isUnix := fi.Sys().(*syscall.Stat_t); isUnix && int(st.Uid) == os.Geteuid() {
				return home, true
			}
		}
	}
	u, err := user.LookupId(strconv.Itoa(os.Geteuid()))
	if err != nil || u.HomeDir == "" {
		return "", false
	}
	return u.HomeDir, true
}
