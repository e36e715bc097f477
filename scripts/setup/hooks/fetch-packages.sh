#!/bin/sh
# mmdebstrap customize hook: downloads packages, without what they depend on, with mmdebstrap's own apt.
# In: FIRKIN_PACKAGES their names; FIRKIN_OUTPUT an existing folder.
set -eu
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
export APT_CONFIG
cd "$FIRKIN_OUTPUT"
for package in $FIRKIN_PACKAGES; do apt-get -o APT::Sandbox::User=root download "$package"; done
