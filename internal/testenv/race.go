//go:build race

package testenv

// raceDetector says that this binary was built with -race.
const raceDetector = true
