package filetransfer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// A carrier is a transport that is made when it is first used, since that reads
// a file.
type carrier struct {
	make func() (*http.Transport, error)
	made atomic.Bool // or about to be
}

func newCarrier(opts Options, cert *tls.Certificate) *carrier {
	c := new(carrier)
	c.make = sync.OnceValues(func() (*http.Transport, error) {
		c.made.Store(true)
		return newTransport(opts, cert)
	})
	return c
}

// RoundTrip sends a request. Without certificates of authorities https is out of
// the question, and http is not.
func (c *carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := c.make()
	if err != nil && req.URL.Scheme == "https" {
		return nil, &TLSError{Host: req.URL.Host, Err: err}
	}
	return t.RoundTrip(req)
}

// closeIdle closes connections that nobody uses. One that was never used has none,
// and is not made for this.
func (c *carrier) closeIdle() {
	if c.made.Load() {
		t, _ := c.make()
		t.CloseIdleConnections()
	}
}

// Limits of what is kept open and read.
const (
	idleTimeout     = 90 * time.Second
	maxIdle         = 100
	maxHeader       = 256 << 10
	continueTimeout = time.Second
	// pingAfter is when an HTTP/2 connection on which nothing comes is asked
	// whether it is still there, pingTimeout when it is not.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
)

// newTransport makes a transport. It is there even if the error is not nil.
func newTransport(opts Options, cert *tls.Certificate) (*http.Transport, error) {
	roots, err := loadRoots(opts.CAFile)
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!opts.NoHTTP2)
	idle := maxIdle
	if opts.Connections > 0 {
		idle = min(idle, opts.Connections)
	}
	dial := opts.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: opts.ConnectTimeout}).DialContext
	}
	return &http.Transport{
		Proxy:                  func(r *http.Request) (*url.URL, error) { return opts.Proxy(r.URL) },
		DialContext:            dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    opts.ConnectTimeout,
		DisableCompression:     true, // decode.go does it
		MaxIdleConns:           idle,
		MaxIdleConnsPerHost:    idle,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              &protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}, err
}

func loadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificates of authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("there is no certificate in '%s'", file)
	}
	return pool, nil
}

// proxyFromEnvironment reads the variables that curl reads. HTTP_PROXY is not
// one of them, since a web server may have set it from a header.
func proxyFromEnvironment() func(*url.URL) (*url.URL, error) {
	first := func(names ...string) string {
		for _, name := range names {
			if v := os.Getenv(name); v != "" {
				return v
			}
		}
		return ""
	}
	config := httpproxy.Config{
		HTTPProxy:  first("http_proxy", "all_proxy", "ALL_PROXY"),
		HTTPSProxy: first("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
		NoProxy:    first("no_proxy", "NO_PROXY"),
	}
	return config.ProxyFunc()
}

// tlsFault tells whether no secure connection could be made, and never will.
func tlsFault(err error) bool {
	for _, is := range []func(error) bool{
		isType[*TLSError], isType[*tls.CertificateVerificationError], isType[x509.UnknownAuthorityError],
		isType[x509.HostnameError], isType[x509.CertificateInvalidError], isType[tls.RecordHeaderError], isType[tls.AlertError],
	} {
		if is(err) {
			return true
		}
	}
	return errors.Is(err, http.ErrSchemeMismatch)
}

func isType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)
