#!/bin/sh
# Mender update module (protocol v3) for a packed bundle. On the device: /usr/share/mender/modules/v3/edgeopt
#   mender-artifact write module-image -T edgeopt -n parts-7 -t BOARD -f parts.edgeopt.tar.xz -o parts-7.mender
# environment: EDGEOPT_SLOT (default /var/lib/edgeopt/slots), EDGEOPT_THEN (default: restarts the service)
set -eu
slot=${EDGEOPT_SLOT:-/var/lib/edgeopt/slots}
then=${EDGEOPT_THEN:-systemctl restart edgeopt}
case $1 in
NeedsArtifactReboot) echo No ;;
SupportsRollback) echo Yes ;;
ArtifactInstall) # Mender has checked the artifact's signature; edgeopt checks the bundle's own
  for file in "$2"/files/*.edgeopt.tar.xz; do
    edgeopt install "$file" --slot "$slot" --then "$then"
  done
  ;;
ArtifactRollback) edgeopt install --slot "$slot" --rollback && sh -c "$then" ;;
esac
