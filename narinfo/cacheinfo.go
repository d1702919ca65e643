package narinfo

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/strata-nix/strata/storepath"
)

// CacheInfoFile is the name of the file that says what a binary cache is.
const CacheInfoFile = "nix-cache-info"

// MaxCacheInfo bounds the bytes of that file.
const MaxCacheInfo = 64 << 10

// CacheInfo is what a binary cache says of itself: lines "Name: value". Names that
// are not known are passed over, and so is a line without a colon.
//
//	StoreDir: /nix/store
//	WantMassQuery: 1         it can be asked about paths that it may not have
//	Priority: 40             lower comes first
//
// Source: the Nix manual, "Binary cache".
type CacheInfo struct {
	Dir           storepath.Dir // "": not said
	WantMassQuery bool
	Priority      int // 0: not said
}

// ParseCacheInfo reads a nix-cache-info. file is its name, for errors, which are
// *[SyntaxError]s. As in Nix the last of several lines with one name counts.
func ParseCacheInfo(file string, text []byte) (CacheInfo, error) {
	var i CacheInfo
	fault := func(line int, why string, err error) (CacheInfo, error) {
		return CacheInfo{}, &SyntaxError{Kind: "binary cache info file", File: file, Line: line, Why: why, Err: err}
	}
	if len(text) > MaxCacheInfo {
		return fault(0, fmt.Sprintf("has more than %d bytes", MaxCacheInfo), nil)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		var err error
		switch name {
		case "StoreDir":
			i.Dir, err = storepath.ParseDir(value)
			if err == nil && strings.TrimSpace(string(i.Dir)) != string(i.Dir) {
				err = fmt.Errorf("'%.200s' ends in a blank", i.Dir)
			}
		case "WantMassQuery":
			i.WantMassQuery = value == "1"
		case "Priority":
			i.Priority, err = strconv.Atoi(value)
			if err != nil {
				err = fmt.Errorf("'%.40s' is not a number", value)
			}
		}
		if err != nil {
			return fault(n, "bad "+name, err)
		}
	}
	return i, nil
}

// Text prints the file. What is not said is left out.
func (i CacheInfo) Text() []byte {
	var b []byte
	if i.Dir != "" {
		b = fmt.Appendf(b, "StoreDir: %s\n", i.Dir)
	}
	if i.WantMassQuery {
		b = append(b, "WantMassQuery: 1\n"...)
	}
	if i.Priority != 0 {
		b = fmt.Appendf(b, "Priority: %d\n", i.Priority)
	}
	return b
}
