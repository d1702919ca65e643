package check

import (
	"context"
	"fmt"

	"github.com/strata-nix/strata/activity"
	"github.com/strata-nix/strata/store"
)

// Verify does what `nix-store --verify` does: of the first layer, and of what it needs of
// others, it tells all findings in the activity log, in Nix's words where Nix has any, and
// forgets paths whose objects have disappeared unless others refer to them. damaged is
// whether anything is still wrong at the end; err is for what kept it from looking.
func Verify(ctx context.Context, t Target, o store.VerifyOptions) (damaged bool, err error) {
	report, err := Run(ctx, t, Options{
		Contents: o.CheckContents, Repair: o.Repair, OnlyDamage: true, Forget: true,
		Layers: []string{"0"},
		Found:  func(ctx context.Context, f *Finding) { logFinding(ctx, f, o.Repair) },
	})
	if err != nil {
		return false, err
	}
	for _, err := range report.Errors {
		activity.WarnOf(ctx, err)
	}
	damage, _ := report.Left()
	return damage > 0 || len(report.Errors) > 0, nil
}

// logFinding tells of a finding when it is made, and when a repair failed.
func logFinding(ctx context.Context, f *Finding, repair bool) {
	switch {
	case f.Outcome == Failed && repair:
		activity.WarnOf(ctx, f.Err)
		return
	case f.Outcome != Found:
		return
	}
	level, text := activity.Error, f.nix
	switch {
	case classOf(f.Code).Severity == Damage:
	case text == "":
		level = activity.Talkative // Nix does not look for it: with -v
	default:
		level = activity.Info
	}
	switch {
	case text == "":
		text = f.Sentence()
	case text == disappeared && f.Code == RowWithoutObject:
		return // whether something refers to it turns out later
	case text == disappeared:
		text = fmt.Sprintf(text, f.Path) // it would not be needed otherwise
	}
	activity.Logf(ctx, level, "%s", text)
}

// Sentence says what was found, in a line.
func (f *Finding) Sentence() string {
	text := fmt.Sprintf("%s: '%s'", classOf(f.Code).Title, f.Path)
	if f.Layer != "" {
		text = f.Layer + ": " + text
	}
	if f.Detail != "" {
		text += ": " + f.Detail
	}
	return text
}

// classOf gives the class with a code.
func classOf(code Code) *Class {
	for _, c := range Classes() {
		if c.Code == code {
			return c
		}
	}
	return &Class{Code: code}
}
