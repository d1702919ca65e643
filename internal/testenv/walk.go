package testenv

import (
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Where random walks begin and how far they go.
const (
	seedVar  = "STRATA_TEST_SEED"  // a number, to repeat a walk, or "new"
	stepsVar = "STRATA_TEST_STEPS" // instead of those that a test takes by itself
)

// Walk gives a test that goes at random the seed to go by and the number of steps to take.
// Both are the same each time, so that a change is not told of what it did not bring in;
// make walks takes new ways. A test that fails has the seed among its words.
func Walk(t testing.TB, steps int) (seed uint64, n int) {
	t.Helper()
	if v := os.Getenv(stepsVar); v != "" {
		var err error
		if steps, err = strconv.Atoi(v); err != nil {
			t.Fatalf("%s: %v", stepsVar, err)
		}
	}
	switch v := os.Getenv(seedVar); v {
	case "":
		h := fnv.New64a()
		h.Write([]byte(t.Name()))
		seed = h.Sum64()
	case "new":
		seed = rand.Uint64()
	default:
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVar, err)
		}
	}
	t.Logf("%s=%d %s=%d", seedVar, seed, stepsVar, steps)
	return seed, steps
}
