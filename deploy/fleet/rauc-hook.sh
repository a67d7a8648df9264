#!/bin/sh
# RAUC hook for a packed bundle, in a RAUC bundle with this manifest.raucm beside it:
#   [update]
#   compatible=BOARD
#   version=7
#   [bundle]
#   format=verity
#   [hooks]
#   filename=rauc-hook.sh
#   [image.model]
#   filename=parts.edgeopt.tar.xz
#   hooks=install
# and, on the device, a slot that the hook fills instead of RAUC, in system.conf:
#   [slot.model.0]
#   device=/var/lib/edgeopt/slots
#   type=raw
set -eu
then=${EDGEOPT_THEN:-systemctl restart edgeopt}
case $1 in
slot-install) edgeopt install "$RAUC_IMAGE_NAME" --slot "$RAUC_SLOT_DEVICE" --then "$then" ;;
*) exit 1 ;;
esac
