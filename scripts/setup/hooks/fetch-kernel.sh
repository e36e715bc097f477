#!/bin/sh
# mmdebstrap customize hook: downloads the package that the kernel meta package stands for, with mmdebstrap's own apt.
# In: FIRKIN_PACKAGE the meta package, FIRKIN_OUTPUT an existing folder.
set -eu
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
export APT_CONFIG
image=$(apt-cache depends "$FIRKIN_PACKAGE" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
cd "$FIRKIN_OUTPUT"
apt-get -o APT::Sandbox::User=root download "$image"
