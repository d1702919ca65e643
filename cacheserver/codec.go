package cacheserver

import (
	"github.com/strata-nix/strata/compress"
)

// codec is a compression and how it shows in the name of a NAR. The extensions are
// those that people know the formats by.
type codec struct {
	method    compress.Method
	extension string
}

var codecs = []codec{
	{compress.None, ""},
	{compress.XZ, ".xz"},
	{compress.Zstd, ".zst"},
	{compress.Gzip, ".gz"},
	{compress.Bzip2, ".bz2"},
	{compress.Brotli, ".br"},
}

func codecOf(m compress.Method) (codec, error) {
	for _, c := range codecs {
		if c.method == m {
			return c, nil
		}
	}
	return codec{}, &compress.UnknownMethodError{Name: string(m)}
}
