package event

import "fmt"

// mostValues is how many values a report may have; those of ours have some ten for
// each event and version.
const mostValues = 32 * (MaxEvents + MaxHeld)

// crowded returns an error for JSON with more values than a report has. Two bytes of
// it can stand for an event, which takes a hundred times that in memory: who sent
// nothing but such could have the server take more than it has.
func crowded(p []byte) error {
	n, quoted := 0, false
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '{' || c == '['):
			n++
		}
	}
	if n > mostValues {
		return fmt.Errorf("it has more than %d values", mostValues)
	}
	return nil
}
