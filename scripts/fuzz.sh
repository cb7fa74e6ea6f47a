#!/usr/bin/env bash
# Runs every fuzz target of every package for FUZZTIME (10s), one after the
# other, also after one has found something, and names at the end those that
# did. New targets need no entry anywhere.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

FUZZTIME=${FUZZTIME:-10s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# targets prints "package directory function" for each target. go list decides
# which test files belong to this platform, and compiles nothing for it.
targets() {
	local pkg dir file
	# shellcheck disable=SC2016 # those are go list's variables, not the shell's
	go list -f '{{$p := .ImportPath}}{{$d := .Dir}}{{range .TestGoFiles}}{{$p}} {{$d}} {{.}}
{{end}}{{range .XTestGoFiles}}{{$p}} {{$d}} {{.}}
{{end}}' ./... 2>/dev/null | while read -r pkg dir file; do
		[ -z "$pkg" ] ||
			sed -nE "s|^func (Fuzz[A-Za-z0-9_]*)\(.*\*testing\.F\).*|$pkg $dir \1|p" "$dir/$file"
	done
}

# Until Go 1.27 a run can fail with "context deadline exceeded" and no failing
# input, when the clock stops it at an unlucky moment (go.dev/issue/75804).
unlucky() {
	grep -qE '^ +context deadline exceeded$' "$log" &&
		! grep -qE 'Failing input written|panic:|DATA RACE' "$log"
}

run() {
	go test -run='^$' -fuzz="^$2\$" -fuzztime="$FUZZTIME" "$1" >"$log" 2>&1 </dev/null
}

count=0
found=()
while read -r pkg dir func; do
	count=$((count + 1))
	echo "fuzz: $pkg $func"
	# An input that really hangs fails at the deadline every time.
	run "$pkg" "$func" || { unlucky && run "$pkg" "$func"; } || { unlucky && run "$pkg" "$func"; } || {
		found+=("$pkg.$func")
		cat "$log"
		# The input itself, for a reader who has only this log.
		input=$(sed -nE 's|^ *Failing input written to (.*)$|\1|p' "$log" | head -n 1)
		if [ -n "$input" ] && [ -f "$dir/$input" ]; then
			echo "fuzz: $input holds:"
			head -c 4096 "$dir/$input"
		fi
		continue
	}
	grep -E '^fuzz: elapsed' "$log" | tail -n 1
done < <(targets)

echo "fuzz: targets: $count, with findings: ${#found[@]}"
if [ ${#found[@]} -gt 0 ]; then
	printf 'fuzz: found by %s\n' "${found[@]}"
	exit 1
fi
