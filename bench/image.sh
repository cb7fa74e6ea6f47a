#!/bin/bash
# Builds the disk image that the benchmark measures: a Debian installation
# that looks like somebody's desktop, in one raw file.
#
#   bench/image.sh [OUT.raw]
#   bench/image.sh --versions
#
# --versions builds versions of it as administrators make them, and prints the
# folder: v1.raw (the release as it came out), minor.raw (its updates installed in
# it, but for the browser, which becomes another one each year), patched.raw (all of
# its updates), later.raw (and some more programs), rebuilt.raw (the files of
# later.raw in a new file system: an image that a builder makes anew each night).
#
# The image is built once and kept in the cache folder
# (${PRESTAGE_BENCH_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/prestage-bench}).
# With OUT.raw it is copied there as well; without, its path is printed.
#
# Exit codes: 0 the image is there, 77 skipped (this machine cannot build it;
# the reason is on stderr), anything else: building it failed.
set -euo pipefail

# Raise this number whenever the content of the image changes: it is part of
# the cached file's name, so that no stale image is ever measured.
recipe=2

size=8G
skipped=77

# A desktop's mix on purpose: big libraries, Java class files, thousands of
# small documents, fonts, a kernel. About 2.3 GiB of files when installed.
packages=(
	linux-image-amd64 initramfs-tools systemd-sysv dbus sudo openssh-server
	gcc g++ make manpages-dev git vim python3 python3-pip perl-doc
	openjdk-17-jdk-headless
	libreoffice-writer-nogui libreoffice-calc-nogui libreoffice-impress-nogui
	firefox-esr
	fonts-dejavu fonts-liberation fonts-noto-core
	hicolor-icon-theme adwaita-icon-theme shared-mime-info
)

# What a later version has, too.
more=(thunderbird gimp-data texlive-base)

say() { echo "image: $*" >&2; }
skip() {
	say "skipped: $*"
	exit $skipped
}
fail() {
	say "failed: $*"
	exit 1
}

[ $# -le 1 ] || {
	echo "usage: bench/image.sh [OUT.raw | --versions]" >&2
	exit 2
}
versions=
[ "${1:-}" != --versions ] || { versions=1; shift; }
out=${1:-}
[ -z "$out" ] || out=$(realpath -m -- "$out")
cache=${PRESTAGE_BENCH_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/prestage-bench}
cached=$cache/image-$recipe.raw
[ -z "$versions" ] || cached=$cache/versions-$recipe

# deliver hands over the finished image, and says where it is.
deliver() {
	if [ -z "$out" ] || [ "$out" = "$(realpath -m -- "$cached")" ]; then
		echo "$cached"
		return
	fi
	mkdir -p "$(dirname -- "$out")"
	# Written aside and renamed, so that an interrupted copy is never taken
	# for an image.
	cp --sparse=always --reflink=auto -- "$cached" "$out.part.$$"
	mv -- "$out.part.$$" "$out"
	echo "$out"
}

if [ -e "$cached" ]; then
	deliver
	exit
fi

# What this machine must have. Said in one go, before anything is touched.
[ "$(id -u)" = 0 ] || skip "building the image needs root (loop mount, chroot); ask root to run bench/image.sh once"
lacking=()
for tool in debootstrap mkfs.ext4 e2fsck losetup mount unshare flock apt-get apt-config; do
	command -v "$tool" >/dev/null || lacking+=("$tool")
done
[ ${#lacking[@]} = 0 ] || skip "missing: ${lacking[*]}; on Debian: apt-get install debootstrap e2fsprogs util-linux"
arch=$(dpkg --print-architecture)
# The kernel's package is named by its flavour, not by the architecture.
case $arch in
amd64) ;;
arm64) packages[0]=linux-image-arm64 ;;
*) skip "no package list for $arch, only for amd64 and arm64" ;;
esac

# The mirror is whatever this machine's own apt uses. Each line:
# URI|release|origin|label|components.
# shellcheck disable=SC2016 # apt fills these in, not the shell
sources=$(apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(ORIGIN)|$(LABEL)|$(COMPONENT)' 'Created-By: Packages' | sort -u || true)
base=$(awk -F'|' '$3 == "Debian" && $4 == "Debian" && $2 !~ /-/ && $5 == "main"' <<<"$sources" | head -n 1)
[ -n "$base" ] || skip "apt knows no plain Debian release with a component main; run apt-get update first, or use a Debian machine"
IFS='|' read -r mirror suite _ <<<"$base"

mkdir -p "$cache"
[ "$(df --output=avail -k "$cache" | tail -n 1)" -ge $(((versions ? 24 : 6) << 20)) ] ||
	skip "less than $((versions ? 24 : 6)) GiB free in $cache; set PRESTAGE_BENCH_DIR to a folder elsewhere"

# Everything from here on happens in a mount namespace of its own. Even if this
# script is killed outright, its mounts vanish with the last process that it
# had started, and so does the loop device, which mount sets to clear itself.
if [ -z "${PRESTAGE_BENCH_NAMESPACE:-}" ]; then
	unshare --mount --propagation private true 2>/dev/null || skip "this machine does not allow mount namespaces"
	PRESTAGE_BENCH_NAMESPACE=1 exec unshare --mount --propagation private "$0" ${versions:+--versions} "$@"
fi

# One builder at a time. With the lock in hand, any build folder is a dead
# builder's leftover.
exec 9>"$cache/image.lock"
flock 9
if [ -e "$cached" ]; then
	deliver
	exit
fi
rm -rf -- "$cache"/build.*

work=$cache/build.$$
root=$work/tree
raw=$work/image.raw

# stop_inside ends whatever package scripts left running in the chroot, found
# by its root folder: a process there would keep the file system busy.
stop_inside() {
	local link
	for link in /proc/[0-9]*/root; do
		[ "$(readlink "$link" 2>/dev/null)" = "$root" ] || continue
		link=${link#/proc/}
		kill -KILL "${link%/root}" 2>/dev/null || true
	done
}

# unmount takes down everything mounted under the root folder.
unmount() {
	for _ in 1 2 3 4 5; do
		mountpoint -q "$root" || return 0
		umount -R "$root" 2>/dev/null && return 0
		stop_inside
		sleep 1
	done
	return 1
}

job=
cleanup() {
	local code=$?
	trap - EXIT
	trap '' HUP INT TERM
	if [ -n "$job" ]; then
		say "stopped; what was built so far is removed"
		# Disowned, so that the shell does not report its death.
		disown "$job"
		kill -KILL -- "-$job" 2>/dev/null || true
	fi
	stop_inside
	# A lazy unmount only as the last resort: what was written is thrown away.
	unmount || umount -R -l "$root" || true
	# The build folder must never be removed through a mount: /dev of this
	# machine is bound below it.
	rm -rf --one-file-system -- "$work"
	exit $code
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say "building the benchmark image from Debian $suite; this takes some minutes, and happens once"
mkdir -p "$root"
log=$cache/image.log
: >"$log"
# run keeps the chatter in a log, and shows the end of it when a step fails.
# The step is a job in a process group of its own that the shell waits for:
# while it runs a command in the foreground a shell does not listen to signals,
# and a step can take minutes.
run() {
	set -m
	"$@" >>"$log" 2>&1 </dev/null &
	job=$!
	set +m
	wait "$job" || {
		job=
		tail -n 20 "$log" >&2
		fail "$* (all of it: $log)"
	}
	job=
}
inside() {
	run chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LANG=C.UTF-8 \
		DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true "$@"
}

# debootstrap fetches with wget, which knows a proxy by these variables.
proxy=$(apt-config shell p Acquire::http::Proxy | sed -n "s/^p='\(.*\)'$/\1/p")
[ -z "$proxy" ] || export http_proxy=$proxy

# make_fs FILE makes an empty file system.
make_fs() {
	truncate -s "$size" "$1"
	# The inode tables are written now: the kernel would otherwise do that in the
	# background while the image is in use, a little more or less each time.
	mkfs.ext4 -q -F -L prestage-bench -E lazy_itable_init=0,lazy_journal_init=0 "$1"
}

# enter FILE [SUITE] mounts an image and lets its apt install packages: of that
# suite alone, or of all that this machine's apt knows of the release.
enter() {
	mountpoint -q "$root" || mount -o loop "$1" "$root" || skip "this machine cannot mount a file (no loop devices?)"
	# The release's updates come from the same places as this machine's.
	awk -F'|' -v suite="$suite" -v only="${2:-}" '
		$3 == "Debian" && ($2 == suite || index($2, suite "-") == 1) && (only == "" || $2 == only) {
			key = $1 " " $2
			if (!(key in parts)) order[++n] = key
			parts[key] = parts[key] " " $5
		}
		END { for (i = 1; i <= n; i++) print "deb " order[i] parts[order[i]] }
	' <<<"$sources" >"$root/etc/apt/sources.list"
	# So do the settings that this machine needs to reach them.
	apt-config dump | grep -E '^Acquire::(Check-|http::|https::|ForceIPv|Retries)' >"$root/etc/apt/apt.conf.d/99bench" || true
	# An image that is thrown away when its build fails needs no fsync per file.
	echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/bench"
	# 101 is "action forbidden": no service starts in the chroot.
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
	echo prestage-bench >"$root/etc/hostname"
	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount --rbind /dev "$root/dev"
	mount --make-rslave "$root/dev"
	inside apt-get -q update
}

# leave FILE cleans up and unmounts.
leave() {
	# What was downloaded must reach the disk before it is deleted: otherwise it
	# lives and dies in memory, and the free space of the image holds only zeros,
	# which no used machine's does.
	sync -f "$root"
	inside apt-get -q clean
	rm -rf -- "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/tmp/* \
		"$root"/etc/resolv.conf "$root"/etc/apt/apt.conf.d/99bench "$root"/etc/dpkg/dpkg.cfg.d/bench \
		"$root"/usr/sbin/policy-rc.d "$root"/var/log/apt/term.log
	umount -R "$root/dev" 2>/dev/null || { stop_inside; umount -R -l "$root/dev"; }
	used=$(df --output=used -k "$root" | tail -n 1)
	unmount || fail "something still uses the image, so that it cannot be unmounted cleanly"
	# "Cleanly unmounted" is a promise to the packer: prove it.
	run e2fsck -f -n "$1"
	sync -- "$1"
	say "$((used >> 10)) MiB of files, $(($(du -k -- "$1" | cut -f1) >> 10)) MiB on disk, $size virtual"
}

# build FILE [SUITE] builds the image.
build() {
	make_fs "$1"
	mount -o loop "$1" "$root" || skip "this machine cannot mount a file (no loop devices?)"
	say "base system"
	run debootstrap --variant=minbase --include=ca-certificates --arch="$arch" "$suite" "$root" "$mirror"
	say "packages"
	enter "$@"
	inside apt-get -q -y --no-install-recommends install "${packages[@]}"
	leave "$1"
}

if [ -z "$versions" ]; then
	build "$raw"
	mv -- "$raw" "$cached"
	deliver
	exit
fi
made=$work/versions
mkdir "$made"
build "$made/v1.raw" "$suite"
say "updates, without a new browser"
cp --sparse=always "$made/v1.raw" "$made/minor.raw"
enter "$made/minor.raw"
inside apt-mark hold firefox-esr
inside apt-get -q -y upgrade
inside apt-mark unhold firefox-esr
leave "$made/minor.raw"
say "updates"
cp --sparse=always "$made/v1.raw" "$made/patched.raw"
enter "$made/patched.raw"
inside apt-get -q -y upgrade
leave "$made/patched.raw"
say "more programs"
cp --sparse=always "$made/patched.raw" "$made/later.raw"
enter "$made/later.raw"
inside apt-get -q -y --no-install-recommends install "${more[@]}"
leave "$made/later.raw"
say "the same files in a new file system"
mount -o loop,ro "$made/later.raw" "$root"
truncate -s "$size" "$made/rebuilt.raw"
run mkfs.ext4 -q -F -L prestage-bench -d "$root" "$made/rebuilt.raw"
unmount || fail "the image is still in use"
run e2fsck -f -n "$made/rebuilt.raw"
sync
mv -- "$made" "$cached"
echo "$cached"
