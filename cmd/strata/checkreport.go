package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/strata-nix/strata/check"
)

// checkJSON is what `strata check --json` prints; doc/formats/check-json.md.
type checkJSON struct {
	Store    string           `json:"store"`
	Contents bool             `json:"contents"`
	Complete bool             `json:"complete"`
	Started  time.Time        `json:"started"`
	Since    time.Time        `json:"since"`
	Seconds  float64          `json:"seconds"`
	Damage   int              `json:"damage"`
	Disorder int              `json:"disorder"`
	Layers   []checkLayerJSON `json:"layers"`
	Classes  []checkClassJSON `json:"classes"`
	Findings []findingJSON    `json:"findings"`
	Errors   []string         `json:"errors"`
}

type checkLayerJSON struct {
	Name    string `json:"name"`
	Dir     string `json:"dir"`
	Checked bool   `json:"checked"`
	Rows    int64  `json:"rows"`
	Entries int64  `json:"entries"`
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
	Skipped int64  `json:"skipped"`
}

type checkClassJSON struct {
	Code        string `json:"code"`
	Severity    string `json:"severity"`
	Title       string `json:"title"`
	Consequence string `json:"consequence"`
	Repair      string `json:"repair,omitempty"`
	Found       int    `json:"found"`
	Repaired    int    `json:"repaired"`
}

type findingJSON struct {
	Code    string `json:"code"`
	Layer   string `json:"layer,omitempty"`
	Path    string `json:"path"`
	Detail  string `json:"detail,omitempty"`
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
}

func newCheckJSON(name string, r *check.Report, complete bool) *checkJSON {
	j := &checkJSON{
		Store: name, Contents: r.Contents, Complete: complete && len(r.Errors) == 0,
		Started: r.Started.UTC(), Since: r.Since.UTC(), Seconds: r.Took.Seconds(),
		Layers: []checkLayerJSON{}, Classes: []checkClassJSON{}, Findings: []findingJSON{}, Errors: []string{},
	}
	j.Damage, j.Disorder = r.Left()
	for _, l := range r.Layers {
		j.Layers = append(j.Layers, checkLayerJSON(l))
	}
	for _, c := range r.Counts {
		j.Classes = append(j.Classes, checkClassJSON{
			Code: string(c.Class.Code), Severity: string(c.Class.Severity), Title: c.Class.Title,
			Consequence: c.Class.Consequence, Repair: c.Class.Repair, Found: c.Found, Repaired: c.Repaired,
		})
	}
	for _, f := range r.Findings {
		out := findingJSON{Code: string(f.Code), Layer: f.Layer, Path: f.Path, Detail: f.Detail, Outcome: string(f.Outcome)}
		if f.Err != nil {
			out.Error = f.Err.Error()
		}
		j.Findings = append(j.Findings, out)
	}
	for _, err := range r.Errors {
		j.Errors = append(j.Errors, err.Error())
	}
	return j
}

// shownFindings is how many findings of a class are listed.
const shownFindings = 10

// printCheck prints a report for people: the classes, each with some of its findings.
func printCheck(out *output, name string, r *check.Report, complete, repair, all bool) error {
	lines := []string{name}
	for _, l := range r.Layers {
		if !l.Checked {
			continue
		}
		line := fmt.Sprintf("  %s: %d valid paths, %d entries in %s", l.Name, l.Rows, l.Entries, l.Dir)
		if r.Contents {
			line += fmt.Sprintf("; %d objects with %s compared", l.Objects, size(uint64(l.Bytes))) //nolint:gosec // not negative
		}
		if l.Skipped > 0 {
			line += fmt.Sprintf(", %d more since %s", l.Skipped, r.Since.Local().Format(time.DateTime))
		}
		lines = append(lines, line)
	}
	byCode := map[check.Code][]*check.Finding{}
	for _, f := range r.Findings {
		byCode[f.Code] = append(byCode[f.Code], f)
	}
	for _, c := range r.Counts {
		lines = append(lines, classLines(c, byCode[c.Class.Code], repair, all)...)
	}
	for _, err := range r.Errors {
		lines = append(lines, "could not look: "+err.Error())
	}
	lines = append(lines, conclusion(r, complete, repair))
	for _, l := range lines {
		if err := out.println(printable(l)); err != nil {
			return err
		}
	}
	return nil
}

func classLines(c check.Count, findings []*check.Finding, repair, all bool) []string {
	head := fmt.Sprintf("%s: %d × %s", c.Class.Severity, c.Found, c.Class.Title)
	if repair {
		head += fmt.Sprintf(", %d repaired", c.Repaired)
	}
	lines := []string{fmt.Sprintf("%s [%s]", head, c.Class.Code), "  " + c.Class.Consequence}
	if c.Class.Repair == "" {
		lines = append(lines, "  From here nothing can be done about it.")
	} else if !repair {
		lines = append(lines, "  A repair: "+c.Class.Repair+".")
	}
	for i, f := range findings {
		if i == shownFindings && !all {
			break
		}
		lines = append(lines, "    "+findingLine(f))
	}
	if shown := len(findings); c.Found > shown || shown > shownFindings && !all {
		lines = append(lines, fmt.Sprintf("    … and %d more", c.Found-min(shown, shownFindings)))
	}
	return lines
}

func findingLine(f *check.Finding) string {
	var parts []string
	if f.Outcome != check.Found {
		parts = append(parts, string(f.Outcome))
	}
	if f.Layer != "" {
		parts = append(parts, f.Layer)
	}
	parts = append(parts, f.Path)
	if f.Detail != "" {
		parts = append(parts, f.Detail)
	}
	if f.Err != nil {
		parts = append(parts, f.Err.Error())
	}
	return strings.Join(parts, ": ")
}

func conclusion(r *check.Report, complete, repair bool) string {
	damage, disorder := r.Left()
	switch {
	case !complete && r.Contents:
		return "not everything was looked at; --resume goes on from here"
	case !complete:
		return "not everything was looked at"
	case damage+disorder == 0 && len(r.Errors) == 0:
		return "everything is in order"
	case damage+disorder == 0:
		return "what could be looked at is in order"
	}
	text := fmt.Sprintf("%d × damage, %d × disorder", damage, disorder)
	if repair {
		return text + " left"
	}
	return text + "; nothing was changed, --repair mends what can be mended"
}
