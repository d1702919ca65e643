package builtin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/strata-nix/strata/compress"
)

// unpackChannel unpacks an archive of one directory, which it names.
// Source: src/libstore/builtins/unpack-channel.cc.
func unpackChannel(ctx context.Context, b *Build) error {
	attrs, err := attributesOf(b.Drv)
	if err != nil {
		return err
	}
	name, err := attrs.need("channelName")
	if err != nil {
		return err
	}
	src, err := attrs.need("src")
	if err != nil {
		return err
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("channelName is not allowed to contain filesystem separators, got '%s'", name)
	}
	out, ok := b.Outputs["out"]
	if !ok {
		return errors.New("'builtin:unpack-channel' requires an 'out' output")
	}
	file, err := newView(b).open(src)
	if err != nil {
		return err
	}
	defer file.Close()
	t, err := newTree(ctx, out)
	if err != nil {
		return err
	}
	defer t.root.Close()
	if err := unpackArchive(ctx, t, file); err != nil {
		return fmt.Errorf("while unpacking '%s': %w", src, err)
	}
	switch top := t.top(); len(top) {
	case 0:
		return fmt.Errorf("channel tarball '%s' is empty", src)
	case 1:
		if top[0] == name {
			return nil // renaming a directory to itself is an error
		}
		return t.root.Rename(top[0], name)
	default:
		return fmt.Errorf("channel tarball '%s' contains more than one file", src)
	}
}

// zipMagic begins a zip archive that is not empty.
const zipMagic = "PK\x03\x04"

// unpackArchive unpacks a zip archive, or a tar archive that may be compressed.
func unpackArchive(ctx context.Context, t *tree, file *os.File) error {
	in := bufio.NewReaderSize(file, archiveBuffer)
	head, err := in.Peek(compress.DetectLen)
	if err != nil && err != io.EOF {
		return err
	}
	if strings.HasPrefix(string(head), zipMagic) {
		return t.unzip(file)
	}
	plain, err := compress.NewReader(ctx, compress.Detect(head), in)
	if err != nil {
		return err
	}
	defer plain.Close()
	return t.untar(plain)
}
