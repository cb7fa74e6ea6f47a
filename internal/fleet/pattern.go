package fleet

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var errTooMany = fmt.Errorf("there are more than %d machines; split the run", MaxMachines)

// expand returns the names that a pattern stands for, in order: pc-[001-020]
// or srv[1-3,7].example. There are at most limit.
func expand(pattern string, limit int) ([]string, error) {
	names := []string{""}
	length := 0 // of a name, at least
	for rest := pattern; rest != ""; {
		text, after, ranged := strings.Cut(rest, "[")
		if length += len(text); length > maxName {
			return nil, errLong(pattern)
		}
		for i := range names {
			names[i] += text
		}
		if !ranged {
			break
		}
		set, after, closed := strings.Cut(after, "]")
		if !closed {
			return nil, fmt.Errorf("%q: a [ without ]", pattern)
		}
		numbers, err := expandSet(set, limit/len(names))
		if errors.Is(err, errTooMany) {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", pattern, err)
		}
		if length += len(numbers[0]); length > maxName {
			return nil, errLong(pattern)
		}
		longer := make([]string, 0, len(names)*len(numbers))
		for _, name := range names {
			for _, n := range numbers {
				longer = append(longer, name+n)
			}
		}
		names, rest = longer, after
	}
	if len(names) > limit {
		return nil, errTooMany
	}
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// expandSet returns the numbers of 1-3,7 with their leading zeros.
func expandSet(set string, limit int) (numbers []string, err error) {
	for item := range strings.SplitSeq(set, ",") {
		low, high, ranged := strings.Cut(strings.TrimSpace(item), "-")
		if !ranged {
			high = low
		}
		from, err := number(low)
		if err != nil {
			return nil, err
		}
		to, err := number(high)
		if err != nil {
			return nil, err
		}
		switch {
		case to < from:
			return nil, fmt.Errorf("[%s-%s] runs backwards", low, high)
		case len(low) != len(high) && (padded(low) || padded(high)):
			return nil, fmt.Errorf("[%s-%s]: with leading zeros, both ends must have as many digits", low, high)
		case to-from >= limit-len(numbers):
			return nil, errTooMany
		}
		for n := from; n <= to; n++ {
			numbers = append(numbers, fmt.Sprintf("%0*d", len(low), n))
		}
	}
	return numbers, nil
}

// padded reports whether a number has leading zeros.
func padded(number string) bool { return len(number) > 1 && number[0] == '0' }

func number(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || len(s) > 9 {
		return 0, fmt.Errorf("%q is not a number of up to 9 digits; a range is written [001-020] or [1-3,7]", s)
	}
	return int(n), nil
}
