#!/bin/sh
# /init of a guest job (guest-job.mjs): runs /job/run.sh and leaves /outbox, with its log and exit status, as a tar
# archive on /dev/vda behind the first FIRKIN_DISK_MIB. The machine's console, whose driver is one of the modules, shows
# the log as well.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "$module"; done </modules.list
# A failed redirection would end the shell, so another one tries it.
if (: >/dev/console) 2>/dev/null; then exec >/dev/console 2>&1; fi
# vz-boot.ts looks for this line. A second one says that the guest has reset itself.
echo "firkin: the guest job begins" >/dev/kmsg
until [ -b /dev/vda ]; do sleep 0.1; done
set -a
. /job/settings
set +a
mkdir -p /outbox /root /tmp
{
  (cd /job && sh -eu ./run.sh)
  echo $? >/outbox/status
} </dev/null 2>&1 | tee /outbox/log
tar --create --directory /outbox . | dd of=/dev/vda bs=1M seek="$FIRKIN_DISK_MIB" iflag=fullblock conv=fsync 2>/dev/null
sync
echo o >/proc/sysrq-trigger
sleep 60
