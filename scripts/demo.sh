#!/usr/bin/env bash
# The main job, on a real file system image, in a folder of its own: pack,
# pre-stage, verify, install offline, compare, damage, repair, update. It needs no
# root, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

mkfs=$(PATH=$PATH:/usr/sbin:/sbin command -v mkfs.ext4) || {
	echo "demo: mkfs.ext4 is missing; install it with: apt-get install e2fsprogs" >&2
	exit 1
}
debugfs=${mkfs%mkfs.ext4}debugfs
bin=$PWD/bin/prestage
[ -x "$bin" ] || { echo "demo: build the program first: make build" >&2; exit 1; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/prestage-demo.XXXXXX")
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
export PRESTAGE_CONFIG=$dir/prestage.toml PRESTAGE_IMAGES=$dir/MEDVImages
cd "$dir"

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() {
	printf '$ %s\n' "$*"
	"${@/#prestage/$bin}"
}
prestage() { "$bin" "$@"; }

say "A disk image: an ext4 file system with real files of this machine"
mkdir files
# Some hundred MB of programs, libraries and texts, as much as there is.
cp -rL --no-preserve=ownership "$(go env GOROOT)/src" "$(go env GOROOT)/pkg" files/ 2>/dev/null || true
cp -P --no-preserve=ownership /usr/lib/*-linux-gnu/*.so* files/ 2>/dev/null || true
mib=$(($(du -sm files | cut -f1) * 5 / 4 + 64))
truncate -s "${mib}M" desktop.img
"$mkfs" -q -F -d files desktop.img
rm -rf files
ls -lhs desktop.img

say "Pack it: two files, CKM (the data) and INDEX (what the data must be)"
run prestage pack desktop.img --name desktop
run prestage list
ls -l MEDVImages

say "Prepare this machine: the folders and their rights, as the procedure asks"
mkdir machine
run prestage setup machine

say "Push the package: copied, read back, checked, marked read-only"
run prestage push desktop
run prestage status
ls -l "machine/MED-V Images/PrestagedImages"

say "Verify every byte of every copy"
run prestage verify desktop

say "The client's first image comes from the pre-stage folder, with no network"
mv MEDVImages elsewhere
run prestage install desktop --offline
run cmp desktop.img "machine/MED-V Images/desktop/1/desktop.img"
echo "bit for bit the same"
run du -h desktop.img "machine/MED-V Images/desktop/1/desktop.img"

say "Damage the staged copy: verify names the damage"
staged="machine/MED-V Images/PrestagedImages/desktop_1.ckm"
chmod u+w "$staged"
printf 'DAMAGE' | dd of="$staged" bs=1 seek=1000000 conv=notrunc status=none
chmod u-w "$staged"
run prestage verify "machine/MED-V Images" || echo "(exit code $?)"

say "Repair it from the other copy: only what is damaged is fetched"
run prestage repair "machine/MED-V Images" --from elsewhere
run prestage verify "machine/MED-V Images"
run prestage status

say "A new version of the image: it has a program more"
"$debugfs" -w -R "write $bin prestage" desktop.img 2>/dev/null
run prestage pack desktop.img --name desktop --images elsewhere

say "Update: what is here already is not fetched"
run prestage update desktop --images elsewhere --dry-run
run prestage update desktop --images elsewhere
run cmp desktop.img "machine/MED-V Images/desktop/2/desktop.img"
echo "bit for bit the same"

say "Done in $SECONDS seconds"
