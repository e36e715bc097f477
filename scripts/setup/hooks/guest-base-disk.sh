#!/bin/sh
# Guest job: makes an ext4 file system on /dev/vda and installs Debian on it, as mmdebstrap would. The packages are
# /job/required/*.deb and /job/packages/*.deb, named in an order to unpack them in.
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
root=/target
# The disk is a new sparse file: what was not written is zero.
mke2fs -q -t ext4 -L base -m 0 -J size=16 -E assume_storage_prezeroed=1 /dev/vda "${FIRKIN_DISK_MIB}M"
mkdir "$root"
mount -t ext4 -o noatime /dev/vda "$root"

# dpkg is installed by itself: first the files of what every Debian has, so that it can be run there.
for folder in bin sbin lib lib64; do
  [ -d "/$folder" ] || continue
  mkdir -p "$root/usr/$folder"
  ln -s "usr/$folder" "$root/$folder"
done
for archive in /job/required/*.deb; do
  dpkg-deb --fsys-tarfile "$archive" | tar --extract --keep-directory-symlink --directory "$root"
done
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/* "$root"/usr/share/locale/* \
  "$root"/usr/share/lintian/*
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/job"
: >"$root/var/lib/dpkg/status"
: >"$root/var/lib/dpkg/available"
# Nothing is started while packages are installed.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"
for folder in proc sys dev job; do mount --rbind "/$folder" "$root/$folder"; done

install() {
  chroot "$root" dpkg --force-unsafe-io --path-exclude='/usr/share/doc/*' --path-exclude='/usr/share/man/*' \
    --path-exclude='/usr/share/info/*' --path-exclude='/usr/share/locale/*' --path-exclude='/usr/share/lintian/*' \
    --path-exclude='/usr/share/groff/*' --path-include='/usr/share/doc/*/copyright' \
    --path-include='/usr/share/doc/apt/examples/sources.list' "$@"
}
# These need each other in circles; what they need is all there.
install --force-depends --install /job/required/*.deb
# Unpacked in any order, configured only in one that every dependency agrees with.
install --force-depends --unpack /job/packages/*.deb
install --configure --pending
# Whatever is not wholly installed is named, and ends this.
if chroot "$root" dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' | grep -v ' installed$'; then exit 1; fi
for folder in proc sys dev job; do umount --recursive "$root/$folder"; done
rmdir "$root/job"

kernel=$(ls /job/modules)
FIRKIN_ARCHIVES=/job/archives FIRKIN_MODULES=/job/modules/$kernel FIRKIN_KERNEL=$kernel \
  FIRKIN_PACKAGE_LIST=/outbox/packages sh -eu /job/finish-root.sh "$root"
umount "$root"
e2fsck -f -n /dev/vda
