package filetransfer

import (
	"cmp"
	"errors"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strata-nix/strata/nixconf"
)

// Upstream's defaults of the settings. DefaultOptions has them all.
const (
	DefaultConnectTimeout = 15 * time.Second
	DefaultStalledTimeout = 300 * time.Second
	DefaultConnections    = 25
	DefaultAttempts       = 5
)

// Options are the settings. The zero value has no timeouts and no limits, tries
// everything once, and trusts the system's certificates. They must not be
// changed while a Client uses them.
type Options struct {
	// ConnectTimeout is connect-timeout: how long making a connection may take,
	// TLS included. 0 is no limit.
	ConnectTimeout time.Duration
	// StalledTimeout is stalled-download-timeout: how long nothing may come, or
	// go for uploads, before the connection is given up. 0 is no limit.
	StalledTimeout time.Duration
	// Speed is download-speed, in bytes per second for each download. 0 is no
	// limit.
	Speed int64
	// Connections is http-connections: how many requests may be under way at
	// once, over all hosts. 0 is no limit.
	Connections int
	// NoHTTP2 is the opposite of http2.
	NoHTTP2 bool
	// Attempts is download-attempts: how often something is tried. 0 is once.
	Attempts int
	// UserAgentSuffix is user-agent-suffix.
	UserAgentSuffix string
	// CAFile is ssl-cert-file: certificates of authorities, PEM. Empty is the
	// system's own. It is read when the first https connection is made.
	CAFile string
	// NetrcFile is netrc-file. It is read anew when it has changed. A file that
	// is not there is an empty one.
	NetrcFile string
	// Proxy says which proxy, if any, is for a URL. Nil takes the usual
	// environment variables, as curl does: http_proxy, https_proxy, HTTPS_PROXY,
	// all_proxy, ALL_PROXY, no_proxy, NO_PROXY, as New finds them.
	Proxy func(*url.URL) (*url.URL, error)
	// dial, if not nil, makes connections instead of a net.Dialer, for tests.
	dial dialer
}

// DefaultOptions are upstream's defaults.
func DefaultOptions() Options {
	return Options{
		ConnectTimeout: DefaultConnectTimeout,
		StalledTimeout: DefaultStalledTimeout,
		Connections:    DefaultConnections,
		Attempts:       DefaultAttempts,
		CAFile:         DefaultCAFile(),
		NetrcFile:      "/etc/nix/netrc",
	}
}

// FromConfig reads the settings from nix.conf. Those that are not set have
// upstream's defaults, of which ssl-cert-file depends on the environment and on
// what there is (DefaultCAFile) and netrc-file on confDir, which is
// NIX_CONF_DIR. An error wraps those of all settings that make no sense.
func FromConfig(c *nixconf.Config, confDir string) (Options, error) {
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	number := func(name string, def int64) int64 {
		n, err := c.Uint(name, uint64(def))
		note(err)
		return int64(min(n, math.MaxInt32))
	}
	seconds := func(name string, def time.Duration) time.Duration {
		return time.Duration(number(name, int64(def/time.Second))) * time.Second
	}
	path := func(name, def string) string {
		p, err := c.Path(name, def)
		note(err)
		return p
	}
	http2, err := c.Bool("http2", true)
	note(err)
	return Options{
		ConnectTimeout:  seconds("connect-timeout", DefaultConnectTimeout),
		StalledTimeout:  seconds("stalled-download-timeout", DefaultStalledTimeout),
		Speed:           number("download-speed", 0) << 10,
		Connections:     int(number("http-connections", DefaultConnections)),
		NoHTTP2:         !http2,
		Attempts:        int(number("download-attempts", DefaultAttempts)),
		UserAgentSuffix: c.String("user-agent-suffix", ""),
		CAFile:          path("ssl-cert-file", DefaultCAFile()),
		NetrcFile:       path("netrc-file", filepath.Join(confDir, "netrc")),
	}, errors.Join(errs...)
}

// DefaultCAFile is the file with the certificates of authorities that upstream
// takes: the first that is set of NIX_SSL_CERT_FILE and SSL_CERT_FILE, else the
// first that exists of /etc/ssl/certs/ca-certificates.crt and the one in the
// default profile. Empty if there is none of them.
func DefaultCAFile() string {
	if file := cmp.Or(os.Getenv("NIX_SSL_CERT_FILE"), os.Getenv("SSL_CERT_FILE")); file != "" {
		return file
	}
	for _, file := range []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
	} {
		if unix.Access(file, unix.R_OK) == nil {
			return file
		}
	}
	return ""
}
