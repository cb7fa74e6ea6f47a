#!/usr/bin/env bash
# Fails if a committed file is over 1 MiB. Test images are made by the tests,
# not kept: a large file stays in every clone for ever.
set -euo pipefail
cd "$(dirname "$0")/.."

git rev-parse -q --verify HEAD >/dev/null || { echo "size-check: nothing is committed yet"; exit 0; }
large=$(git ls-tree -r -l HEAD | awk '$4 != "-" && $4 > 1048576 { size = $4; sub(/^[^\t]*\t/, ""); print size, $0 }')
if [ -n "$large" ]; then
	printf 'size-check: files over 1048576 bytes:\n%s\n' "$large"
	exit 1
fi
