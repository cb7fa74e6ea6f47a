#!/bin/sh
# Before the files go. dpkg says "remove", rpm "0" when no other version comes.
set -e
if [ -d /run/systemd/system ]; then
	case "$1" in
	remove | 0) systemctl disable --now prestage.service ;;
	esac
fi
