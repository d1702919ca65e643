package narinfo

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrURL is the cause of every error about a URL that does not stay in its cache.
var ErrURL = errors.New("NAR outside of its binary cache")

// maxURL bounds the bytes of a URL that is followed.
const maxURL = 4096

// RelativeURL is URL if it names something below the cache, whether that is a
// directory or a web server: no scheme or host, no way up, also in disguise. The
// path comes decoded, for use with a directory; query is what followed "?", which
// some caches need and a directory has no use for.
func (i *NarInfo) RelativeURL() (path, query string, err error) {
	fault := func(why string) (string, string, error) {
		return "", "", fmt.Errorf("%w: URL '%.200s' of '%s' %s", ErrURL, i.URL, i.Path.Base(), why)
	}
	if len(i.URL) > maxURL {
		return fault(fmt.Sprintf("has more than %d bytes", maxURL))
	}
	raw, query, _ := strings.Cut(i.URL, "?")
	if strings.Contains(raw, "#") {
		return fault("has a fragment")
	}
	path, err = url.PathUnescape(raw)
	if err != nil {
		return fault("is malformed")
	}
	if checkPlain(path) != nil || strings.Contains(path, "\\") {
		return fault("has a character that cannot be")
	}
	first, _, _ := strings.Cut(path, "/")
	if strings.Contains(first, ":") {
		return fault("is not relative")
	}
	for part := range strings.SplitSeq(path, "/") {
		switch part {
		case "":
			return fault("is not relative, or has an empty part")
		case ".", "..":
			return fault("leads out of the cache")
		}
	}
	return path, query, nil
}
