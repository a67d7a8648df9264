#!/bin/sh
# SWUpdate runs it after the files are there, with the word postinst and the data of its sw-description.
set -eu
slot=${EDGEOPT_SLOT:-/var/lib/edgeopt/slots}
then=${EDGEOPT_THEN:-systemctl restart edgeopt}
[ "$1" = postinst ] || exit 0
edgeopt install "$2" --slot "$slot" --then "$then"
rm -f "$2"
