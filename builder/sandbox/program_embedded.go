//go:build embed_stage

package sandbox

import _ "embed"

// embeddedStage is the program of the directory stage, for the same machine. `make
// build` puts it there.
//
//go:embed bin/stage
var embeddedStage []byte
