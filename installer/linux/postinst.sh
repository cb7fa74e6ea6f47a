#!/bin/sh
# After the files are there. The service is not started by itself: that is for
# the administrator to decide (systemctl enable --now prestage).
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# An upgrade: go on with the new program.
	systemctl try-restart prestage.service
fi
