package builder

import (
	"fmt"
	"slices"
	"strings"
)

// rejects says why a derivation cannot be built on this machine, "" if it can.
func (r *request) rejects(n *node) string {
	var why strings.Builder
	if r.MaxJobs == 0 {
		why.WriteString("\nReason: local builds are disabled (max-jobs = 0)" +
			"\nHint: set 'max-jobs' to a non-zero value to enable local builds, or configure remote builders via 'builders'")
	}
	if p := n.drv.Platform; p != r.System && !slices.Contains(r.ExtraPlatforms, p) && !n.drv.IsBuiltin() {
		fmt.Fprintf(&why, "\nReason: platform mismatch\nRequired system: '%s'\nCurrent system: '%s'", p, r.System)
	}
	required, available := n.opts.SystemFeatures(n.kind), r.systemFeatures()
	if slices.ContainsFunc(required, func(f string) bool { return !slices.Contains(available, f) }) {
		fmt.Fprintf(&why, "\nReason: missing system features\nRequired features: {%s}\nAvailable features: {%s}",
			strings.Join(required, ", "), strings.Join(available, ", "))
	}
	return why.String()
}

// systemFeatures are those of this machine, sorted. Some experimental features are
// of that kind too.
func (o *Options) systemFeatures() []string {
	all := slices.Clone(o.Execute.SystemFeatures)
	for _, f := range []string{featureCA, featureRecursive} {
		if o.has(f) {
			all = append(all, f)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
