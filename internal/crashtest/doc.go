// Package crashtest kills, starves and faults the real program, as processes,
// disks and people do, and checks that what can be seen is whole. It holds
// tests only.
package crashtest
