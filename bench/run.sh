#!/bin/bash
# Measures prestage against its peers and prints the budget table.
# What "make bench" runs; bench/README.md says how to read it.
#
#   ROUNDS=3 DOC=doc/performance.md bench/run.sh
#   ONLY=push bench/run.sh    only pushing to machines (or ONLY=local, ONLY=update, ONLY=serve)
#
# Exit codes: 0 measured (budgets met or not), 77 skipped: there is no image
# and this machine cannot build one, anything else: a measurement failed.
set -euo pipefail

# Pinned, so that a ratio changes only when prestage does.
desync_version=v1.0.0

say() { echo "bench: $*" >&2; }

top=$(cd "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PRESTAGE_BENCH_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/prestage-bench}
# Exported, and absolute: image.sh uses the same folder.
cache=$(realpath -m -- "$cache")
export PRESTAGE_BENCH_DIR=$cache
rounds=${ROUNDS:-3}
# An empty DOC is heeded: measure only, write no document.
doc=${DOC-$top/doc/performance.md}
mkdir -p "$cache"

# Two benchmarks at a time would only measure each other.
exec 8>"$cache/run.lock"
flock -n 8 || {
	say "another benchmark is running in $cache"
	exit 1
}
# With the lock in hand, any work folder is a dead run's leftover.
rm -rf -- "$cache"/work.*
work=$(mktemp -d "$cache/work.XXXXXX")
child=
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
	local code=$?
	trap - EXIT
	trap '' HUP INT TERM
	# Told to stop, bench stops what it runs, and then itself.
	[ -z "$child" ] || { kill -TERM "$child" && wait "$child"; } 2>/dev/null || true
	rm -rf -- "$work"
	exit "$code"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# 1. Both our binaries. PRESTAGE_BINARY measures one that was built before.
cd "$top"
if [ -n "${PRESTAGE_BINARY:-}" ]; then
	prestage=$PRESTAGE_BINARY
else
	say "building prestage"
	prestage=$work/prestage
	CGO_ENABLED=0 go build -o "$prestage" ./cmd/prestage
fi
CGO_ENABLED=0 go build -o "$work/bench" ./bench

# 2. The peers.
desync=$cache/desync-$desync_version
if [ ! -x "$desync" ]; then
	say "building desync $desync_version, once"
	# A module of its own that requires just this version, because "go install
	# MODULE@VERSION" also wants to read the list of all versions, which not
	# every module proxy hands out.
	mkdir "$work/peers"
	if (
		cd "$work/peers"
		export GOFLAGS=-mod=mod GOWORK=off
		go mod init bench.peers
		go mod edit -require="github.com/folbricht/desync@$desync_version"
		go build -o "$desync.part" github.com/folbricht/desync/cmd/desync
	) >"$cache/desync.log" 2>&1; then
		mv -- "$desync.part" "$desync"
	else
		say "desync $desync_version cannot be built (see $cache/desync.log); its rows stay empty"
		desync=
	fi
fi
missing=()
for peer in casync zstd rsync zsync partclone; do
	tool=$peer
	[ "$peer" != partclone ] || tool=partclone.ext4
	PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || missing+=("$peer")
done
[ ${#missing[@]} = 0 ] || say "missing peers: ${missing[*]}; their rows stay empty (on Debian: apt-get install ${missing[*]})"

# 3. The image. IMAGE measures with another one.
if [ -n "${IMAGE:-}" ]; then
	image=$IMAGE
elif [ "${ONLY:-}" = serve ]; then
	image=/dev/null # it makes a package of its own
else
	code=0
	image=$(bench/image.sh) || code=$?
	if [ $code = 77 ]; then
		say "skipped: no benchmark image; IMAGE=FILE measures with one of your own"
		exit 77
	fi
	[ $code = 0 ] || exit $code
fi

versions=
if [ -z "${ONLY:-}" ] || [ "${ONLY:-}" = update ]; then
	code=0
	versions=$(bench/image.sh --versions) || code=$?
	[ $code = 77 ] || [ $code = 0 ] || exit $code
	if [ -n "$versions" ]; then
		code=0
		bench/ntfs.sh "$versions" || code=$?
		[ $code = 77 ] || [ $code = 0 ] || exit $code
	fi
fi

# The original, the results of two packers, and an installed image at a time.
need=$(($(du -k -- "$image" | cut -f1) * 4))
[ "$(df --output=avail -k "$cache" | tail -n 1)" -ge $need ] || {
	say "the measurements need $((need >> 20)) GiB free in $cache; set PRESTAGE_BENCH_DIR to a folder elsewhere"
	exit 1
}

# 4. Measure. In the background, so that the traps above are heard.
mkdir "$work/run"
"$work/bench" -image "$image" -work "$work/run" -rounds "$rounds" \
	-versions "$versions" -prestage "$prestage" -desync "$desync" -only "${ONLY:-}" \
	-doc "$doc" -template bench/performance.md <&0 &
child=$!
code=0
wait "$child" || code=$?
child=
exit "$code"
