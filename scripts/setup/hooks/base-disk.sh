#!/bin/sh
# mmdebstrap customize hook, the last step of the base disk: finish-root.sh, then the ext4 image.
# In: $1 the root folder; FIRKIN_IMAGE, FIRKIN_IMAGE_MIB, and what finish-root.sh wants.
set -eu
root=$1
sh "$(dirname "$0")/finish-root.sh" "$root"

# mmdebstrap has /proc and the like mounted here. A bind mount of the root folder alone shows what is below them.
view=$FIRKIN_IMAGE.root
mkdir -p "$view"
if mount --bind "$root" "$view"; then
  trap 'umount "$view"; rmdir "$view"' EXIT
else
  [ ! -e "$root/proc/self" ] || exit 1
  rmdir "$view"
  view=$root
fi
# Inode tables and journal are written now, as holes: else the guest's kernel fills them in behind the user's back.
rm -f "$FIRKIN_IMAGE"
mke2fs -q -t ext4 -L base -m 0 -J size=16 -E lazy_itable_init=0,lazy_journal_init=0 -d "$view" \
  "$FIRKIN_IMAGE" "${FIRKIN_IMAGE_MIB}M"
