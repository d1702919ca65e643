package derivation

import "strings"

// Rewrite replaces each key of rewrites by its value in a text: the paths that
// outputs have during a build for placeholders and for the paths that they will
// have. The keys are looked for one after the other, in their order.
func Rewrite(text string, rewrites map[string]string) string {
	for _, from := range sortedKeys(rewrites) {
		if from != "" {
			text = strings.ReplaceAll(text, from, rewrites[from])
		}
	}
	return text
}
