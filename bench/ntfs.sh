#!/bin/bash
# Puts the files of the image's versions into NTFS, as Windows has it, beside them.
#
#   bench/ntfs.sh VERSIONS
#
# VERSIONS is what "bench/image.sh --versions" prints. It gets ntfs-v1.raw (the
# files of v1.raw), ntfs-minor.raw and ntfs-later.raw (changed in place to those of
# minor.raw and later.raw), ntfs-rebuilt.raw (those of later.raw, written anew), and
# ntfs-used.raw (ntfs-v1.raw with as much in its free space as apt has downloaded and
# deleted in v1.raw). What is there stays.
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
missing=
for v in v1 later minor rebuilt used; do
	[ -f "$versions/ntfs-$v.raw" ] || missing+=" $v"
done
[ -n "$missing" ] || exit 0
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
	umount "$work/tree"
	settle "$1"
}

# use IMAGE writes to an NTFS volume what is deleted again.
use() {
	ntfs-3g -o big_writes "$1" "$work/ntfs"
	head -c 700M /dev/urandom >"$work/ntfs/downloads"
	sync -f "$work/ntfs/downloads"
	rm "$work/ntfs/downloads"
	settle "$1"
}

# settle IMAGE unmounts an NTFS volume. The driver goes on for a moment after that.
settle() {
	umount "$work/ntfs"
	for _ in $(seq 100); do
		ntfsfix -n "$1" >/dev/null 2>&1 && break
		sleep 0.1
	done
	sync -- "$1"
}

# v1 is made first: others are made of it.
for v in $missing; do
	say "$v"
	case $v in
	v1 | rebuilt)
		truncate -s 8G "$work/$v.raw"
		mkntfs -q -F -Q -L prestage -H 255 -S 63 -p 2048 "$work/$v.raw" 2>/dev/null
		;;
	*) cp --sparse=always "$versions/ntfs-v1.raw" "$work/$v.raw" ;;
	esac
	case $v in
	v1 | later | minor) fill "$work/$v.raw" "$v" ;;
	rebuilt) fill "$work/$v.raw" later ;;
	used) use "$work/$v.raw" ;;
	esac
	mv -- "$work/$v.raw" "$versions/ntfs-$v.raw"
done
