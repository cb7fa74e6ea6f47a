#!/bin/sh
# After the files are gone. Packages and images stay: they are the machine's.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
