#!/bin/sh
# What makes a Debian the base disk's, however it was installed: users, npm, settings, tidying up.
# In: $1 the root folder, FIRKIN_NPM (npm's archive). Out: FIRKIN_PACKAGE_LIST.
set -eu
root=$1

# --- users -----------------------------------------------------------------------------------------------------------
chroot "$root" useradd --create-home --uid 1000 --user-group --groups sudo --shell /bin/bash user
chroot "$root" chsh --shell /bin/bash root
printf 'user ALL=(ALL:ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/user"
chmod 0440 "$root/etc/sudoers.d/user"
chroot "$root" visudo --check --quiet
chmod 0755 "$root/home/user"

# --- npm, under /usr/local, where its global packages go too ---------------------------------------------------------
npm=$root/usr/local/lib/node_modules/npm
mkdir -p "$npm"
tar --extract --gzip --file "$FIRKIN_NPM" --directory "$npm" --strip-components=1 --no-same-owner
rm -rf "$npm/docs" "$npm/man"
printf 'prefix=/usr/local\nupdate-notifier=false\nfund=false\n' >"$npm/npmrc"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/local/bin/npx"
chmod 0755 "$npm/bin/npm-cli.js" "$npm/bin/npx-cli.js"

# --- settings --------------------------------------------------------------------------------------------------------
# The whole system is the sandbox's own: `pip install` may write to it.
printf '[global]\nbreak-system-packages = true\ndisable-pip-version-check = true\n' >"$root/etc/pip.conf"
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"
printf 'LANG=C.UTF-8\n' >"$root/etc/environment"
printf 'firkin\n' >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
# The name server is the network's affair; whoever starts the machine writes it.
: >"$root/etc/resolv.conf"
: >"$root/etc/machine-id"
# The distribution's own servers, as its apt package names them, whatever mirror this machine built from.
sed -n 's/^\(deb .* main\)\b.*/\1/p' "$root/usr/share/doc/apt/examples/sources.list" >"$root/etc/apt/sources.list"
[ -s "$root/etc/apt/sources.list" ]
rm -rf "$root/etc/apt/sources.list.d"/* "$root/usr/share/doc/apt/examples"
printf 'Acquire::Languages "none";\nAcquire::GzipIndexes "true";\n' >"$root/etc/apt/apt.conf.d/99firkin"
chmod 0644 "$root/etc/hostname" "$root/etc/resolv.conf"
# Every command of an SDK runs in a login shell. Under emulation the process that asks for the user id, which bash knows,
# is half of what such a shell takes.
sed -i 's/\$(id -u)/${EUID:-$(id -u)}/' "$root/etc/profile"
grep -q EUID "$root/etc/profile"
mkdir -p "$root/run/e2b"

# --- nothing of the host, of the build, or of no use -----------------------------------------------------------------
chroot "$root" dpkg-query --show --showformat '${Package} ${Version}\n' >"$FIRKIN_PACKAGE_LIST"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/usr/sbin/policy-rc.d" "$root"/etc/ssh/ssh_host_* "$root/etc/.pwd.lock"
rm -f "$root"/etc/*- "$root/var/lib/dpkg"/*-old "$root/var/cache/debconf"/*-old "$root/var/cache/ldconfig/aux-cache"
rm -rf "$root/var/lib/apt/lists" "$root/var/cache/apt" "$root/var/cache/man" "$root"/tmp/* "$root"/var/tmp/*
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
find "$root/var/log" -type f -delete
