package cacheserver

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// TLSConfig takes a certificate, with those between it and the authority, and
// its key from PEM files. They are read anew when they have changed, so that a
// certificate can be renewed under a running server; what cannot be used then is
// told to log, and the former one stays.
func TLSConfig(certFile, keyFile string, log func(error)) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, nil
}

type certificate struct {
	certFile, keyFile string
	log               func(error)

	mu      sync.Mutex
	current *tls.Certificate
	at      [2]fs.FileInfo // the files that were tried last
}

// get is called for each connection.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed() {
		if err := c.read(); err != nil {
			c.log(err)
		}
	}
	return c.current, nil
}

func (c *certificate) changed() bool {
	for i, name := range []string{c.certFile, c.keyFile} {
		fi, err := os.Stat(name)
		if err == nil && (!os.SameFile(fi, c.at[i]) || !fi.ModTime().Equal(c.at[i].ModTime())) {
			return true
		}
	}
	return false
}

func (c *certificate) read() error {
	for i, name := range []string{c.certFile, c.keyFile} {
		fi, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		c.at[i] = fi
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate '%s' with key '%s': %w", c.certFile, c.keyFile, err)
	}
	c.current = &pair
	return nil
}
