//go:build !embed_stage

package sandbox

// embeddedStage is nothing in a build by plain go.
var embeddedStage []byte
