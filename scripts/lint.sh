#!/usr/bin/env bash
# Runs every linter, also after one has complained, and names at the end those
# that did. A linter that cannot work here is left out with a line saying why.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

complained=()

# check NAME COMMAND...
check() {
	local name=$1
	shift
	echo "lint: $name"
	"$@" || complained+=("$name")
}

# tool NAME prints the path of a developer tool, built for this machine. To set
# GOOS for `go tool` itself would build the tool for that platform.
tool() {
	go tool -modfile=tools/go.mod -n "$1"
}

format() {
	local files
	files=$(gofmt -l .) || return
	[ -z "$files" ] && return
	printf 'not formatted, run gofmt -w on:\n%s\n' "$files"
	return 1
}

# Only Windows has most of the host code, and few of us run it: look at every
# package as each of the two systems sees it.
vet() { GOOS=$1 CGO_ENABLED=0 go vet ./...; }
static() { GOOS=$1 CGO_ENABLED=0 "$staticcheck" ./...; }

shell() {
	# Files that are not committed yet count too; those that are ignored do not.
	git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run |
		xargs -0 shellcheck --severity=warning
}

vulnerabilities() {
	local out rc
	out=$("$govulncheck" ./... 2>&1)
	rc=$?
	if [ $rc = 1 ] && grep -q 'fetching vulnerabilities' <<<"$out"; then
		echo "lint: govulncheck left out: its database cannot be reached from here"
		return 0
	fi
	# Exit status 3 is its way to say that it found something.
	[ $rc = 0 ] || echo "$out"
	return $rc
}

check gofmt format
check "go mod tidy" go mod tidy -diff
if [ -z "$(go list ./... 2>/dev/null)" ]; then
	echo "lint: no Go packages yet"
else
	staticcheck=$(tool staticcheck) && govulncheck=$(tool govulncheck) || exit 1
	for os in linux windows; do
		check "go vet, $os" vet $os
		check "staticcheck, $os" static $os
	done
	check govulncheck vulnerabilities
fi
if command -v shellcheck >/dev/null; then
	check shellcheck shell
else
	echo "lint: shellcheck left out: not installed"
fi

if [ ${#complained[@]} -gt 0 ]; then
	printf 'lint: failed:'
	printf ' %s;' "${complained[@]}"
	echo
	exit 1
fi
