package disk

import "os"

// NextData returns off: holes are read as zeros, which is correct and slower
// than leaving them out.
func NextData(_ *os.File, off, size int64) (int64, error) { return min(off, size), nil }
