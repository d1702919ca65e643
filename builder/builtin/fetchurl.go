package builtin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/compress"
	"github.com/strata-nix/strata/derivation"
	"github.com/strata-nix/strata/filetransfer"
	"github.com/strata-nix/strata/nar"
	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/storepath"
)

// fetch is what fetchurl is told.
type fetch struct {
	b          *Build
	out        string
	url        string // the one of the attribute
	unpack     bool   // it is an archive, to be unpacked
	executable bool
}

// fetchurl downloads a file, or the archive (NAR) of a tree.
// Source: src/libstore/builtins/fetchurl.cc.
func fetchurl(ctx context.Context, b *Build) error {
	output, ok := b.Drv.Outputs["out"]
	if !ok || b.Outputs["out"] == "" {
		return errors.New("'builtin:fetchurl' requires an 'out' output")
	}
	if output.Kind != derivation.Fixed && output.Kind != derivation.Impure {
		return errors.New("'builtin:fetchurl' must be a fixed-output or impure derivation")
	}
	attrs, err := attributesOf(b.Drv)
	if err != nil {
		return err
	}
	f := &fetch{b: b, out: b.Outputs["out"], unpack: attrs["unpack"] == "1", executable: attrs["executable"] == "1"}
	if f.url, err = attrs.need("url"); err != nil {
		return err
	}
	for _, mirror := range f.mirrors(output) {
		if err := f.from(ctx, mirror); err == nil {
			return nil
		} else if context.Cause(ctx) != nil {
			return err
		} else {
			activity.Logf(ctx, activity.Debug, "%v", err)
		}
		if _, err := nar.RemoveTree(ctx, f.out); err != nil {
			return err
		}
	}
	return f.from(ctx, f.url)
}

// mirrors are where the file could be found by its hash.
func (f *fetch) mirrors(output derivation.Output) []string {
	if output.Kind != derivation.Fixed || output.CA.Method != storepath.Flat {
		return nil
	}
	hash := output.CA.Hash
	var urls []string
	for _, mirror := range f.b.HashedMirrors {
		urls = append(urls, strings.TrimSuffix(mirror, "/")+"/"+hash.Algorithm().String()+"/"+hash.Text(nixhash.Base16))
	}
	return urls
}

// from makes the output of what is at an URL.
func (f *fetch) from(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		if fault, ok := errors.AsType[*url.Error](err); ok {
			err = fault.Err // the URL may hold a password
		}
		return fmt.Errorf("the URL is malformed: %w", err)
	}
	body, err := f.open(ctx, u)
	if err != nil {
		return err
	}
	defer body.Close()
	if !f.unpack {
		err = f.save(ctx, body)
	} else {
		err = f.restore(ctx, body)
	}
	if err != nil || !f.executable {
		return err
	}
	return os.Chmod(f.out, 0o755)
}

func (f *fetch) open(ctx context.Context, u *url.URL) (io.ReadCloser, error) {
	switch u.Scheme {
	case "http", "https":
		res, err := f.b.Transfer.Get(ctx, &filetransfer.Request{URL: u})
		if err != nil {
			return nil, err
		}
		return res.Body, nil
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return nil, fmt.Errorf("unable to download '%s': it names another host", u.Redacted())
		}
		file, err := newView(f.b).open(u.Path)
		if err != nil {
			return nil, fmt.Errorf("unable to download '%s': %w", u, err)
		}
		return file, nil
	}
	if open, ok := f.b.Schemes[u.Scheme]; ok {
		return open(ctx, u)
	}
	return nil, fmt.Errorf("unable to download '%s': its scheme is not supported", u.Redacted())
}

// save writes the output as it comes.
func (f *fetch) save(ctx context.Context, body io.Reader) error {
	file, err := os.OpenFile(f.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, &interruptible{ctx, body})
	return errors.Join(err, file.Close())
}

// archiveBuffer is what nar wants to read from.
const archiveBuffer = 64 << 10

// restore unpacks an archive, which is compressed if the attribute says so.
func (f *fetch) restore(ctx context.Context, body io.ReadCloser) error {
	method := compress.None
	if strings.HasSuffix(f.url, ".xz") {
		method = compress.XZ
	}
	plain, err := compress.NewReader(ctx, method, body)
	if err != nil {
		return err
	}
	_, err = nar.Restore(ctx, bufio.NewReaderSize(plain, archiveBuffer), f.out, nar.RestoreOptions{})
	body.Close() // which plain may be reading still
	plain.Close()
	return err
}

// An interruptible reader stops when its context is done.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := context.Cause(i.ctx); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
