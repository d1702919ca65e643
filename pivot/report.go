package pivot

import "github.com/strata-nix/strata/storepath"

// Report is a plan in numbers and lists, as `strata pivot --json` prints it; see
// doc/formats/pivot-json.md.
type Report struct {
	Old  []string `json:"old"`  // lowers that are there
	Gone []string `json:"gone"` // old lowers that are not
	New  []string `json:"new"`

	Kept       Tally `json:"kept"`
	Copied     Tally `json:"copied"`
	Duplicates Tally `json:"duplicates"`
	Removed    Tally `json:"removed"`
	Rows       struct {
		Changed int `json:"changed"`
		Added   int `json:"added"`
		Dropped int `json:"dropped"`
	} `json:"rows"`
	Roots struct {
		Lost    int `json:"lost"`
		Removed int `json:"removed"`
	} `json:"roots"`
	Layer struct {
		Whiteouts int `json:"whiteouts"`
		Hiding    int `json:"hiding"`
		Parts     int `json:"parts"`
		Bound     int `json:"bound"`
		Merged    int `json:"merged"`
	} `json:"layer"`

	Copies       []ReportCopy     `json:"copies"`
	RemovedPaths []string         `json:"removedPaths"`
	Conflicts    []ReportConflict `json:"conflicts"`
	Missing      []ReportMissing  `json:"missing"`
	LostRoots    []ReportRoot     `json:"lostRoots"`
}

// ReportCopy is an object that comes up.
type ReportCopy struct {
	Path    string `json:"path"`
	NarSize uint64 `json:"narSize"`
	From    string `json:"from"`
}

// ReportConflict is a path that has two contents.
type ReportConflict struct {
	Path  string `json:"path"`
	Lower string `json:"lower"`
	// Keeps tells whose contents count: "upper" or "lower".
	Keeps string `json:"keeps"`
}

// ReportMissing is a path that cannot be had.
type ReportMissing struct {
	Path  string   `json:"path"`
	By    string   `json:"by,omitempty"`
	Roots []string `json:"roots,omitempty"`
	Why   string   `json:"why,omitempty"`
}

// ReportRoot is a gc root that leads to nothing afterwards.
type ReportRoot struct {
	Link    string `json:"link"`
	Path    string `json:"path"`
	Removed bool   `json:"removed"`
}

// Report puts the plan into words that others understand. Its lists are not nil.
func (p *Plan) Report(dir storepath.Dir) *Report {
	r := &Report{
		Old: list(p.Old), Gone: list(p.Gone), New: list(p.New),
		Kept: p.Kept, Copied: p.CopyTally(), Duplicates: TallyOf(p.Duplicates), Removed: TallyOf(p.Removed),
		Copies: []ReportCopy{}, RemovedPaths: []string{}, Conflicts: []ReportConflict{}, LostRoots: []ReportRoot{},
		Missing: ReportMissings(dir, p.Missing),
	}
	r.Rows.Changed, r.Rows.Added, r.Rows.Dropped = len(p.Changed), len(p.Added), len(p.Dropped)
	r.Layer.Whiteouts, r.Layer.Hiding, r.Layer.Parts = len(p.Whiteouts), len(p.Hiding), len(p.Parts)
	r.Layer.Bound, r.Layer.Merged = len(p.Bound), len(p.Merged)
	for _, c := range p.Copies {
		r.Copies = append(r.Copies, ReportCopy{dir.Print(c.Info.Path), c.Info.NarSize, c.From})
	}
	for _, o := range p.Removed {
		r.RemovedPaths = append(r.RemovedPaths, dir.Print(o.Path))
	}
	for _, c := range p.Conflicts {
		keeps := "lower"
		if c.Own {
			keeps = "upper"
		}
		r.Conflicts = append(r.Conflicts, ReportConflict{dir.Print(c.Path), c.Lower, keeps})
	}
	r.Roots.Lost = len(p.LostRoots)
	for _, l := range p.LostRoots {
		if l.Removed {
			r.Roots.Removed++
		}
		r.LostRoots = append(r.LostRoots, ReportRoot{l.Link, dir.Print(l.Path), l.Removed})
	}
	return r
}

// ReportMissings puts what is missing into words.
func ReportMissings(dir storepath.Dir, all []Missing) []ReportMissing {
	out := []ReportMissing{}
	for _, m := range all {
		r := ReportMissing{Path: dir.Print(m.Path), Roots: m.Roots}
		if !m.By.IsZero() {
			r.By = dir.Print(m.By)
		}
		if m.Why != nil {
			r.Why = m.Why.Error()
		}
		out = append(out, r)
	}
	return out
}

func list(names []string) []string { return append([]string{}, names...) }
