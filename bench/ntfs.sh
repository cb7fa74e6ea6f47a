#!/bin/bash
# Puts the files of the image's versions into NTFS, as Windows has it, beside them.
#
#   bench/ntfs.sh VERSIONS
#
# VERSIONS is what "bench/image.sh --versions" prints. It gets ntfs-v1.raw (the
# files of v1.raw), ntfs-minor.raw and ntfs-later.raw (changed in place to those of
# minor.raw and later.raw) and ntfs-rebuilt.raw (those of later.raw, written anew).
#
# Exit codes: 0 they are there, 77 skipped (the reason is on stderr), anything else:
# building them failed.
set -euo pipefail
shopt -s inherit_errexit

say() { echo "ntfs: $*" >&2; }
skip() {
	say "skipped: $*"
	exit 77
}

if [ $# != 1 ] || [ ! -f "$1/v1.raw" ]; then
	echo "usage: bench/ntfs.sh VERSIONS" >&2
	exit 2
fi
versions=$(realpath -- "$1")
[ ! -f "$versions/ntfs-minor.raw" ] || exit 0
[ "$(id -u)" = 0 ] || skip "mounting needs root"
for tool in mkntfs ntfs-3g rsync unshare mount; do
	command -v "$tool" >/dev/null || skip "missing: $tool"
done
[ "$(df --output=avail -k "$versions" | tail -n 1)" -ge $((20 << 20)) ] || skip "less than 20 GiB free in $versions"

# The mounts end with the last process that was started here, whatever happens.
if [ -z "${PRESTAGE_BENCH_NAMESPACE:-}" ]; then
	PRESTAGE_BENCH_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
fi
work=$(mktemp -d "$versions/.ntfs.XXXXXX")
cleanup() {
	local code=$?
	trap - EXIT
	umount "$work/ntfs" "$work/tree" 2>/dev/null || true
	rm -rf --one-file-system -- "$work"
	exit $code
}
trap cleanup EXIT
mkdir "$work/ntfs" "$work/tree"

# fill IMAGE VERSION makes the files on an NTFS volume those of a version.
fill() {
	mount -o loop,ro,noload "$versions/$2.raw" "$work/tree"
	ntfs-3g -o big_writes "$1" "$work/ntfs"
	# Owners and modes are not what Windows has; nor are devices and sockets.
	rsync --recursive --links --times --hard-links --delete --inplace --whole-file "$work/tree/" "$work/ntfs/"
	umount "$work/ntfs" "$work/tree"
	# The driver goes on for a moment after its volume is unmounted.
	for _ in $(seq 100); do
		ntfsfix -n "$1" >/dev/null 2>&1 && break
		sleep 0.1
	done
	sync -- "$1"
}
new() {
	truncate -s 8G "$1"
	mkntfs -q -F -Q -L prestage -H 255 -S 63 -p 2048 "$1" 2>/dev/null
}

say "the files of v1"
new "$work/v1.raw"
fill "$work/v1.raw" v1
for v in later minor; do
	say "changed in place to those of $v"
	cp --sparse=always "$work/v1.raw" "$work/$v.raw"
	fill "$work/$v.raw" "$v"
done
say "written anew"
new "$work/rebuilt.raw"
fill "$work/rebuilt.raw" later
for v in v1 later rebuilt minor; do
	mv -- "$work/$v.raw" "$versions/ntfs-$v.raw"
done
