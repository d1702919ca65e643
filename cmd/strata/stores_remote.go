package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/strata-nix/strata/filetransfer"
	httpstore "github.com/strata-nix/strata/objstore/http"
	"github.com/strata-nix/strata/objstore/s3"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/store/binarycache"
)

// openHTTPCache opens a binary cache on a web server, by http or https.
func openHTTPCache(_ context.Context, c *config, ref store.Reference) (store.Store, error) {
	p := newParams(ref)
	o := c.cacheOptions(p)
	c.remoteCache(p, &o)
	o.Existing = true
	u := cacheURL(ref)
	if u.Host == "" {
		p.failf("store '%s' names no host", ref)
	}
	hidden := *u
	hidden.User = nil
	o.URI = hidden.String()
	client := c.clientFor(p, ref)
	if err := p.end(); err != nil {
		return nil, err
	}
	objects, err := httpstore.New(u, client)
	if err != nil {
		return nil, &usageError{err}
	}
	return binarycache.Open(objects, o)
}

// cacheURL is the URL that a reference means, without its parameters.
func cacheURL(ref store.Reference) *url.URL {
	host, path, hasPath := strings.Cut(ref.Authority, "/")
	u := &url.URL{Scheme: ref.Scheme}
	if hasPath {
		u.Path = "/" + path
	}
	if login, rest, ok := cutLast(host, "@"); ok {
		host = rest
		if name, password, ok := strings.Cut(login, ":"); ok {
			u.User = url.UserPassword(name, password)
		} else {
			u.User = url.User(login)
		}
	}
	u.Host = host
	return u
}

// clientFor is what makes requests for a store: one that shows a certificate, if
// the store's parameters name one.
func (c *config) clientFor(p *params, ref store.Reference) *filetransfer.Client {
	cert, key := p.path("tls-certificate", ""), p.path("tls-private-key", "")
	switch {
	case cert == "" && key == "":
	case cert == "" || key == "":
		p.failf("store '%s' needs both of the settings 'tls-certificate' and 'tls-private-key', or neither", ref)
	default:
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			p.fail("tls-certificate", "cannot be used: %v", err)
			break
		}
		return c.network.client().WithCertificate(pair)
	}
	return c.network.client()
}

// openS3 opens a binary cache in a bucket of S3, or of a service that speaks the
// same protocol.
func openS3(ctx context.Context, c *config, ref store.Reference) (store.Store, error) {
	p := newParams(ref)
	o := c.cacheOptions(p)
	c.remoteCache(p, &o)
	p.ignore("tls-certificate", "tls-private-key") // Nix has them there, too, and does nothing with them
	so := c.s3Options(p)
	if err := p.end(); err != nil {
		return nil, err
	}
	// Buckets of the same name at different services are different.
	o.URI = store.Reference{Scheme: "s3", Authority: ref.Authority, Params: pick(ref, "endpoint", "region", "profile", "scheme")}.String()
	var err error
	if so.Transport, err = c.network.s3Transport(); err != nil {
		return nil, err
	}
	objects, err := s3.Open(ctx, so)
	if err != nil {
		return nil, err
	}
	return binarycache.Open(objects, o)
}

// s3Options reads the parameters that say which bucket of which service is meant.
func (c *config) s3Options(p *params) s3.Options {
	so := s3.Options{
		Profile:      p.text("profile", ""),
		Region:       p.text("region", ""),
		Scheme:       p.text("scheme", ""),
		Endpoint:     p.text("endpoint", ""),
		Addressing:   s3.Addressing(p.text("addressing-style", string(s3.Auto))),
		Multipart:    p.flag("multipart-upload", false),
		ChunkSize:    p.bytes("multipart-chunk-size", p.bytes("buffer-size", 0)),
		Threshold:    p.bytes("multipart-threshold", 0),
		StorageClass: p.text("storage-class", ""),
		Attempts:     c.network.transfers.Attempts,
	}
	so.Bucket, so.Prefix, _ = strings.Cut(strings.TrimRight(p.ref.Authority, "/"), "/")
	return so
}

// pick gives those of a reference's parameters that make it another store.
func pick(ref store.Reference, names ...string) map[string][]string {
	out := map[string][]string{}
	for _, name := range names {
		if v := ref.Params[name]; len(v) > 0 {
			out[name] = v
		}
	}
	return out
}

// s3Transport is what carries requests to buckets: with the timeouts of nix.conf
// and the authorities that it names.
func (n *network) s3Transport() (http.RoundTripper, error) {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	t.ResponseHeaderTimeout = n.transfers.StalledTimeout
	if n.transfers.Connections > 0 {
		t.MaxConnsPerHost = n.transfers.Connections
		t.MaxIdleConnsPerHost = n.transfers.Connections
	}
	if file := n.transfers.CAFile; file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, errors.New("there is no certificate in '" + file + "'")
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return t, nil
}
