package check

import (
	"context"
	"time"

	"github.com/strata-nix/strata/storepath"
)

// Code names a class of findings. It never changes its meaning.
type Code string

// The codes. What they mean is in the table of class.go.
const (
	LowerGone            Code = "lower-gone"
	LowerReplaced        Code = "lower-replaced"
	MountWrong           Code = "mount-wrong"
	LockBroken           Code = "lock-broken"
	DatabaseCorrupt      Code = "database-corrupt"
	DatabaseFiles        Code = "database-files"
	DatabaseSchema       Code = "database-schema"
	DatabaseIndex        Code = "database-index"
	DatabaseRow          Code = "database-row"
	ReferenceDangling    Code = "reference-dangling"
	WhiteoutHidesLower   Code = "whiteout-hides-lower"
	WhiteoutStray        Code = "whiteout-stray"
	ObjectHidesLower     Code = "object-hides-lower"
	ObjectMerged         Code = "object-merged"
	ViewStale            Code = "view-stale"
	LowerObjectMissing   Code = "lower-object-missing"
	LowerObjectChanged   Code = "lower-object-changed"
	LowerRowMissing      Code = "lower-row-missing"
	RowWithoutObject     Code = "row-without-object"
	ObjectModified       Code = "object-modified"
	ObjectUnreadable     Code = "object-unreadable"
	CoveredMissing       Code = "covered-object-missing"
	CoveredModified      Code = "covered-object-modified"
	SizeWrong            Code = "size-wrong"
	MetadataWrong        Code = "metadata-wrong"
	SignatureBad         Code = "signature-bad"
	LinkModified         Code = "link-modified"
	DuplicateOfLower     Code = "duplicate-of-lower"
	ObjectWithoutRow     Code = "object-without-row"
	ForeignFile          Code = "foreign-file"
	LockLeft             Code = "lock-left"
	LeftoverTemporary    Code = "leftover-temporary"
	TemporaryRootsOfDead Code = "temporary-roots-of-dead"
	RootDangling         Code = "root-dangling"
	LeaseDangling        Code = "lease-dangling"
	CacheObjectModified  Code = "cache-object-modified"
	CacheFileModified    Code = "cache-file-modified"
	CacheRecordDamaged   Code = "cache-record-damaged"
	CacheMetadataWrong   Code = "cache-metadata-wrong"
	CacheLeftover        Code = "cache-leftover"
)

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	// Damage: something is wrong, or will be as soon as somebody uses it.
	Damage Severity = "damage"
	// Disorder: nothing is wrong, but something is there that need not be.
	Disorder Severity = "disorder"
)

// Outcome is what became of a finding.
type Outcome string

// The outcomes.
const (
	Found    Outcome = "found"    // nothing was tried
	Repaired Outcome = "repaired" // it is gone
	Dropped  Outcome = "dropped"  // the object was given up, with all that refers to it
	Failed   Outcome = "failed"   // see Err
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Code  Code
	Layer string // its name; "" when it is about the whole
	// Path is a store path in full, or a file.
	Path   string
	Detail string // more about it, may be empty
	// Outcome is that of a repair, and Err why it failed.
	Outcome Outcome
	Err     error
	// Mend, if not nil, is the repair of a finding that was made elsewhere, by a
	// [Source].
	Mend func(ctx context.Context) error

	layer   int            // of Target.Layers
	name    string         // of the entry of a store directory
	path    storepath.Path // zero: it is about no store path
	nix     string         // what Nix says of it, "" if it does not look for that
	data    any            // what its class needs to know for the repair
	dropped bool           // mended by giving it up
	told    bool           // what Nix says of it was said
}

// Count is how often a class was found.
type Count struct {
	Class    *Class
	Found    int
	Repaired int // or dropped
}

// LayerReport is what was looked at in a layer.
type LayerReport struct {
	Name    string
	Dir     string
	Checked bool // false: only as far as another one needs it
	Rows    int64
	Entries int64 // of its directory
	// Objects and Bytes were hashed; Skipped are those that an earlier run had hashed.
	Objects, Bytes, Skipped int64
}

// Report is what a check has found. The order of the findings is that in which they
// were made.
type Report struct {
	Started  time.Time
	Took     time.Duration
	Since    time.Time // when the check began that was resumed; else Started
	Contents bool
	Layers   []LayerReport
	Counts   []Count // classes that were found, in the order of the table
	// Findings are at most [Options.Keep] of each class.
	Findings []*Finding
	// Errors are why something could not be looked at, by what that was.
	Errors []error
}

// Left tells how many findings are still there, by severity.
func (r *Report) Left() (damage, disorder int) {
	for _, c := range r.Counts {
		if c.Class.Severity == Damage {
			damage += c.Found - c.Repaired
		} else {
			disorder += c.Found - c.Repaired
		}
	}
	return damage, disorder
}

// ReportOf is the report of a check that could look at nothing but this.
func ReportOf(findings ...*Finding) *Report {
	r := &Report{Started: time.Now(), Findings: findings}
	r.Since = r.Started
	for _, c := range Classes() {
		n := 0
		for _, f := range findings {
			if f.Code == c.Code {
				f.Outcome = Found
				n++
			}
		}
		if n > 0 {
			r.Counts = append(r.Counts, Count{Class: c, Found: n})
		}
	}
	return r
}
