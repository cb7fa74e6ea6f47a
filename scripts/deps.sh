#!/usr/bin/env bash
# Installs the Debian packages that the tests, the race detector and the
# linters need. This list is the only one: a test that needs another program
# adds its package here.
#
# It does nothing, and quickly, when everything is there. Where it may not
# install (no apt-get, neither root nor passwordless sudo, or
# PRESTAGE_NO_DEPS=1) it says what is missing and succeeds: the tests then skip
# what they cannot do. It fails only if it tried to install and could not.
set -euo pipefail

mapfile -t packages < <(sed 's/ *#.*//' <<'EOF'
acl             # setfacl: access control lists that status must notice
e2fsprogs       # mkfs.ext4 and debugfs: Linux disks to pack, and a second opinion on their files
dosfstools      # mkfs.fat, fsck.fat: EFI system partitions and the like to pack
mtools          # mcopy: fills them, without the kernel's help
exfatprogs      # mkfs.exfat, fsck.exfat, dump.exfat: disks of data to pack
exfat-fuse      # fills them, without the kernel's help
ntfs-3g         # mkntfs and ntfscat: Windows disks to pack, without Windows; a second opinion on their files
lvm2            # disks with logical volumes
fdisk           # sfdisk: disks with partitions
xfsprogs        # mkfs.xfs, xfs_db: disks to pack, whose files can share bytes; a second opinion on them
btrfs-progs     # mkfs.btrfs: another one; btrfs check
qemu-utils      # qemu-img: VHD, VHDX, qcow2 and VMDK images as other tools write them
zip             # archives whose streams patches must make again to the bit
zstd            # zstd -t: a CKM must be a valid zstd file to everybody else
curl            # everybody else's client of our server
strace          # shows that the server's bytes do not pass through the program
postgresql      # initdb and postgres: the other database that a server keeps events in
nginx-light     # a web server that is not ours must serve packages as well as ours, and stand before ours
varnish         # a cache before our server that knows nothing of packages
iproute2        # ip: network namespaces and shaped links between test hosts
iptables        # cuts a link between test hosts in the middle of a transfer
wine64          # runs the Windows program, for real, on Linux
wine            # its command wine, which finds the rest
wixl            # writes Client.MSI on Linux
msitools        # msibuild adds what wixl cannot express; msiinfo reads tables back
osslsigncode    # signs programs and installers, and says whether a signature is right
minisign        # a second opinion on keys and signatures of packages
openssl         # makes the certificate that the tests sign with
icoutils        # wrestool: a second opinion on the version resource of prestage.exe
rpm             # reads the .rpm that we write
systemd         # a real service manager must take the unit, start and stop it
samba           # smbd stands for a Windows client: exact ACLs, attributes, registry
samba-vfs-modules # acl_xattr, which keeps NT ACLs to the bit
smbclient       # an ordinary user's hands, to see what is refused
samba-common-bin # net and smbpasswd: a second opinion on the registry; users
faketime        # a machine whose clock is wrong
krb5-kdc        # a real Kerberos KDC gives out the tickets that machines are reached with
krb5-admin-server # kadmin.local: its principals and keytabs
krb5-user       # kinit: credential caches as users have them
openssh-server  # a real sshd stands for a Linux client
openssh-client  # keys and the agent
sudo            # clients whose administrator is not root
gcc             # the race detector links with a C compiler
libc6-dev       # and with the C library's headers
make            # this repository's targets
shellcheck      # these scripts are linted too
EOF
)

# find_missing fills the array missing.
find_missing() {
	local have p
	# dpkg-query exits 1 when it does not know a package; that is an answer too.
	have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true)
	missing=()
	for p in "${packages[@]}"; do
		grep -qx "installed $p" <<<"$have" || missing+=("$p")
	done
}

# leave_out REASON: some tests will be skipped; nothing has failed.
leave_out() {
	echo "deps: $1; tests that need these Debian packages will be skipped: ${missing[*]}" >&2
	exit 0
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	missing=("${packages[@]}")
	leave_out "not a Debian system"
fi
find_missing
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
if [ "${PRESTAGE_NO_DEPS:-}" = 1 ]; then
	leave_out "PRESTAGE_NO_DEPS is set"
elif [ "$(id -u)" != 0 ]; then
	sudo -n true 2>/dev/null || leave_out "neither root nor passwordless sudo"
	sudo=(sudo -n)
fi

apt() {
	# Its errors go to standard error; the rest is a page of progress.
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 \
		-o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" </dev/null >/dev/null
}

# A server's package starts the server. Nobody who runs tests asked for a web
# server on port 80, so tell the packages not to, while we install and only if
# the machine has no policy of its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap '"${sudo[@]}" rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
	"${sudo[@]}" chmod 755 $policy
fi

echo "deps: installing ${missing[*]}"
for attempt in 1 2 3; do
	apt update && apt install -y --no-install-recommends "${missing[@]}" && break
	echo "deps: attempt $attempt of 3 failed" >&2
	[ $attempt = 3 ] || sleep $((attempt * 5))
done

find_missing
if [ ${#missing[@]} -gt 0 ]; then
	echo "deps: could not install: ${missing[*]}" >&2
	exit 1
fi
