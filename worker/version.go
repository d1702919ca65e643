package worker

import "fmt"

// Version is a version of the protocol, in its form on the wire: 1.38 is 0x126.
// Versions compare as numbers.
type Version uint16

const v1 Version = 1 << 8 // plus the minor version

// Versions that we speak.
const (
	Latest        = v1 + 38
	MinimumServed = v1 + 18 // the oldest client that Serve takes
	MinimumUsed   = v1 + 21 // the oldest daemon that Client takes
)

// infoVersion is the version whose path infos stand in the stream of
// AddMultipleToStore, whatever was negotiated.
const infoVersion = v1 + 16

// String is "1.38".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v>>8, v&0xff) }

// The numbers that both sides begin with: "nixc", "dxio" read as text.
const (
	clientMagic = 0x6e697863
	serverMagic = 0x6478696f
)

// The messages that a server sends while an operation runs.
const (
	msgNext          = 0x6f6c6d67 // a log line
	msgRead          = 0x64617461 // give me at most so many bytes
	msgWrite         = 0x64617416 // take these bytes; obsolete
	msgLast          = 0x616c7473 // the answer follows
	msgError         = 0x63787470 // instead of an answer
	msgStartActivity = 0x53545254
	msgStopActivity  = 0x53544f50
	msgResult        = 0x52534c54
)

// Limits on what the other side may send, far above what anybody does.
const (
	maxPath     = 8 << 10 // bytes of a path or name
	maxFeatures = 256
	maxSettings = 4096
	maxTraces   = 4096
	maxFields   = 256
)
