package main

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// streamInfos prints all infos as they come, in no particular order, so that it does
// not matter how many there are. Some are read while others are printed.
func streamInfos(ctx context.Context, out *output, dir storepath.Dir, l store.InfoLister) error {
	type batch struct {
		infos []*store.PathInfo
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	batches := make(chan batch)
	go func() {
		defer close(batches)
		var b batch
		for info, err := range l.AllPathInfos(ctx) {
			if err != nil {
				b.err = err
				break
			}
			if b.infos = append(b.infos, info); len(b.infos) == streamBatch {
				select {
				case batches <- b:
					b = batch{infos: make([]*store.PathInfo, 0, streamBatch)}
				case <-ctx.Done():
					return
				}
			}
		}
		select {
		case batches <- b:
		case <-ctx.Done():
		}
	}()
	defer func() { // the store is closed by our caller, and must not be in use then
		cancel()
		for range batches { //nolint:revive // until it is closed
		}
	}()
	pr := &jsonInfos{out: out, dir: dir}
	for b := range batches {
		for _, info := range b.infos {
			if err := pr.print(info.Path, info); err != nil {
				return err
			}
		}
		if b.err != nil {
			return b.err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return pr.end()
}

// streamBatch is how many infos are handed on at once.
const streamBatch = 512

// jsonInfos prints an object with a member for each path, in the JSON of
// `nix path-info --json --json-format 1`.
type jsonInfos struct {
	out      *output
	dir      storepath.Dir
	closures map[storepath.Path]uint64
	begun    bool
	text     []byte // of the last one, for its room
}

func (j *jsonInfos) print(p storepath.Path, info *store.PathInfo) error {
	b := append(j.text[:0], ',')
	if !j.begun {
		j.begun, b[0] = true, '{'
	}
	b = append(j.appendPath(b, p), ':')
	if info == nil {
		b = append(b, "null"...)
	} else {
		size, sized := j.closures[p]
		b = j.appendInfo(b, info, size, sized)
	}
	j.text = b
	_, err := j.out.Write(b)
	return err
}

func (j *jsonInfos) end() error {
	if !j.begun {
		return j.out.println("{}")
	}
	return j.out.println("}")
}

// appendInfo is written by hand since there may be millions: by reflection it takes
// longer than reading them.
func (j *jsonInfos) appendInfo(b []byte, info *store.PathInfo, closureSize uint64, sized bool) []byte {
	b = append(b, `{"ca":`...)
	if info.CA.IsZero() {
		b = append(b, "null"...)
	} else {
		b = appendJSON(b, info.CA.String())
	}
	if sized {
		b = strconv.AppendUint(append(b, `,"closureSize":`...), closureSize, 10)
	}
	b = append(b, `,"deriver":`...)
	if info.Deriver.IsZero() {
		b = append(b, "null"...)
	} else {
		b = j.appendPath(b, info.Deriver)
	}
	b = appendJSON(append(b, `,"narHash":`...), info.NarHash.Text(nixhash.SRI))
	b = strconv.AppendUint(append(b, `,"narSize":`...), info.NarSize, 10)
	b = append(b, `,"references":`...)
	b = appendList(b, info.References, j.appendPath)
	b = append(b, `,"registrationTime":`...)
	if info.Registered == 0 {
		b = append(b, "null"...)
	} else {
		b = strconv.AppendInt(b, info.Registered, 10)
	}
	b = append(b, `,"signatures":`...)
	b = appendList(b, info.Signatures, func(b []byte, s store.Signature) []byte { return appendJSON(b, string(s)) })
	b = appendJSON(append(b, `,"storeDir":`...), string(j.dir))
	b = strconv.AppendBool(append(b, `,"ultimate":`...), info.Ultimate)
	return append(b, `,"version":1}`...)
}

// appendPath spells a path in full. Its base name has no character that JSON escapes.
func (j *jsonInfos) appendPath(b []byte, p storepath.Path) []byte {
	b = appendJSON(b, string(j.dir))
	b = append(b[:len(b)-1], '/')
	return append(append(b, p.Base()...), '"')
}

func appendList[T any](b []byte, list []T, add func([]byte, T) []byte) []byte {
	b = append(b, '[')
	for i, x := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = add(b, x)
	}
	return append(b, ']')
}

// appendJSON adds a string. Those that need it package json escapes.
func appendJSON(b []byte, s string) []byte {
	if slices.ContainsFunc([]byte(s), escapedInJSON) {
		text, _ := json.Marshal(s) // of a string never fails
		return append(b, text...)
	}
	return append(append(append(b, '"'), s...), '"')
}

func escapedInJSON(c byte) bool {
	return c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&'
}
