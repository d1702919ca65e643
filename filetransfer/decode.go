package filetransfer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/strata-nix/strata/compress"
)

// methods are the names of content encodings: those of HTTP, and those that
// upstream sends for what it stored compressed.
var methods = map[string]compress.Method{
	"br": compress.Brotli, "bzip2": compress.Bzip2, "gzip": compress.Gzip, "x-gzip": compress.Gzip,
	"xz": compress.XZ, "zstd": compress.Zstd,
}

// encodings are what was done to a body, in that order. Nothing was done by
// "identity", and by "aws-chunked", which some object storage keeps from uploads.
func encodings(h http.Header) []string {
	var list []string
	for name := range strings.SplitSeq(strings.Join(h.Values("Content-Encoding"), ","), ",") {
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case "", "identity", "aws-chunked":
		default:
			list = append(list, name)
		}
	}
	return list
}

// maxEncodings is how often something can have been encoded.
const maxEncodings = 2

// decode undoes encodings.
func decode(ctx context.Context, body io.ReadCloser, encodings []string) (io.ReadCloser, error) {
	if len(encodings) > maxEncodings {
		return nil, permanent(fmt.Errorf("it is encoded %d times", len(encodings)))
	}
	for _, name := range slices.Backward(encodings) {
		m, ok := methods[name]
		if !ok {
			return nil, permanent(fmt.Errorf("unknown content encoding %.40q", name))
		}
		r, err := compress.NewReader(ctx, m, body)
		if err != nil {
			return nil, err
		}
		body = &decoded{r, body}
	}
	return body, nil
}

// A decoded body is closed from its source on, which the decoder may be reading.
type decoded struct {
	io.ReadCloser
	source io.Closer
}

func (d *decoded) Close() error {
	d.source.Close()
	return d.ReadCloser.Close()
}
