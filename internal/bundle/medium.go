package bundle

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/docker/go-units"
)

// AskMedium stands for the size of the file system that a bundle is written to.
const AskMedium = -1

// fits reports whether contents fill at most three quarters of a medium; both
// are in bytes.
func fits(contents, medium int64) bool {
	high, low := bits.Mul64(uint64(contents), 4)
	limitHigh, limitLow := bits.Mul64(uint64(medium), 3)
	return high < limitHigh || high == limitHigh && low <= limitLow
}

// checkMedium refuses contents that do not fit a medium.
func checkMedium(contents, medium int64) error {
	if fits(contents, medium) {
		return nil
	}
	return fmt.Errorf("the bundle has %s (%d bytes), and the medium of %s (%d bytes) may be filled to three quarters; "+
		"use a larger one or fewer images (--medium SIZE names its size, --medium 0 switches this check off)",
		units.BytesSize(float64(contents)), contents, units.BytesSize(float64(medium)), medium)
}

// blocks multiplies without overflowing.
func blocks(n, size uint64) int64 {
	high, low := bits.Mul64(n, size)
	if high > 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}
