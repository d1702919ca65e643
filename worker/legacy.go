package worker

import (
	"errors"
	"fmt"

	"github.com/strata-nix/strata/nixhash"
	"github.com/strata-nix/strata/store"
	"github.com/strata-nix/strata/storepath"
)

// The older protocol of Nix, which it calls the serve protocol: what ssh:// stores
// speak with `nix-store --serve` on a machine that they reach by ssh. It has nine
// operations, no messages beside the answers, and no errors: who serves it says on
// standard error what went wrong, and hangs up.
//
// Source: src/libstore/serve-protocol.cc and src/nix/nix-store/nix-store.cc.

// LegacyVersion is a version of the serve protocol in its form on the wire: 2.7
// is 0x207.
type LegacyVersion uint16

const v2 LegacyVersion = 2 << 8 // plus the minor version

// Versions of the serve protocol that we speak.
const (
	LegacyLatest        = v2 + 7
	LegacyMinimumServed = v2 + 1
	LegacyMinimumUsed   = v2 + 5
)

// legacyForms is the version of the worker protocol that has the derived paths of
// this one: a derivation alone stands for all of its outputs.
const legacyForms = v1 + 29

// String is "2.7".
func (v LegacyVersion) String() string { return Version(v).String() }

// The numbers that both sides begin with.
const (
	legacyClientMagic = 0x390c9deb
	legacyServerMagic = 0x5452eecb
)

// The numbers of the operations.
const (
	legacyQueryValidPaths = 1
	legacyQueryPathInfos  = 2
	legacyDumpStorePath   = 3
	legacyImportPaths     = 4
	legacyBuildPaths      = 6
	legacyQueryClosure    = 7
	legacyBuildDerivation = 8
	legacyAddToStoreNar   = 9
)

// legacyInfo reads what is known of p, in an answer about many.
func (d *decoder) legacyInfo(p storepath.Path) *store.PathInfo {
	info := &store.PathInfo{Path: p, Deriver: d.optPath(), References: d.paths()}
	d.Uint64() // how much there is to download: the same again
	info.NarSize = d.Uint64()
	info.NarHash, info.CA, info.Signatures = d.narHash(), d.contentAddress(), d.signatures()
	return info
}

// legacyInfo is the inverse of decoder.legacyInfo.
func (e *encoder) legacyInfo(i *store.PathInfo, v LegacyVersion) {
	e.optPath(i.Deriver)
	e.paths(i.References)
	e.Uint64(i.NarSize)
	e.Uint64(i.NarSize)
	if v >= v2+4 {
		e.Text(i.NarHash.Text(nixhash.Nix32))
		e.Text(i.CA.String())
		e.signatures(i.Signatures)
	}
}

// legacyUpload reads the info of an object whose NAR follows.
func (d *decoder) legacyUpload() *store.PathInfo {
	info := &store.PathInfo{Path: d.path(), Deriver: d.optPath(), NarHash: d.narHash(), References: d.paths()}
	info.Registered, info.NarSize, info.Ultimate = d.time(), d.Uint64(), d.Bool()
	info.Signatures, info.CA = d.signatures(), d.contentAddress()
	return info
}

// legacyUpload is the inverse of decoder.legacyUpload.
func (e *encoder) legacyUpload(i *store.PathInfo) {
	e.path(i.Path)
	e.optPath(i.Deriver)
	e.narHash(i.NarHash)
	e.paths(i.References)
	e.Uint64(uint64(i.Registered))
	e.Uint64(i.NarSize)
	e.Bool(i.Ultimate)
	e.signatures(i.Signatures)
	e.Text(i.CA.String())
}

// legacyResult reads how a build ended.
func (d *decoder) legacyResult(v LegacyVersion) *store.BuildResult {
	r := d.buildStatus()
	if v >= v2+3 {
		d.buildTimes(r)
	}
	if v >= v2+6 {
		d.builtOutputs(r)
	}
	return r
}

// legacyResult is the inverse of decoder.legacyResult.
func (e *encoder) legacyResult(r *store.BuildResult, v LegacyVersion) error {
	e.buildStatus(r)
	if v >= v2+3 {
		e.buildTimes(r)
	}
	if v >= v2+6 {
		return e.builtOutputs(r)
	}
	return nil
}

// LegacyOptions are what a client of the serve protocol says of its builds. Times
// are in seconds, 0 is without limit.
type LegacyOptions struct {
	MaxSilentTime, Timeout uint64
	MaxLogSize             uint64 // bytes
	KeepFailed             bool
}

// errRepeats is for a wish that stock Nix does not grant either.
var errRepeats = errors.New("client requested repeating builds, but this is not currently implemented")

func (d *decoder) legacyOptions(v LegacyVersion) LegacyOptions {
	o := LegacyOptions{MaxSilentTime: d.Uint64(), Timeout: d.Uint64()}
	if v >= v2+2 {
		o.MaxLogSize = d.Uint64()
	}
	if v >= v2+3 {
		if d.Uint64() != 0 {
			d.reject(errRepeats)
		}
		d.Uint64() // whether to enforce determinism, which is about the repetitions
	}
	if v >= v2+7 {
		o.KeepFailed = d.Bool()
	}
	return o
}

// legacyOptions is the inverse of decoder.legacyOptions.
func (e *encoder) legacyOptions(o LegacyOptions, v LegacyVersion) {
	e.Uint64(o.MaxSilentTime)
	e.Uint64(o.Timeout)
	if v >= v2+2 {
		e.Uint64(o.MaxLogSize)
	}
	if v >= v2+3 {
		e.Uint64(0)
		e.Bool(false)
	}
	if v >= v2+7 {
		e.Bool(o.KeepFailed)
	}
}

// settings are the options by their names in nix.conf, with those that a build for
// another machine always has: it brings what it needs, and keeps the log.
func (o LegacyOptions) settings() map[string]string {
	return map[string]string{
		"max-silent-time":    fmt.Sprint(o.MaxSilentTime),
		"timeout":            fmt.Sprint(o.Timeout),
		"max-build-log-size": fmt.Sprint(o.MaxLogSize),
		"keep-failed":        fmt.Sprint(o.KeepFailed),
		"keep-build-log":     "false",
		"substitute":         "false",
	}
}
