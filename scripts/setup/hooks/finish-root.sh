#!/bin/sh
# What makes a Debian the base disk's, however it was installed: users, Node.js, kernel modules, settings, tidying up.
# In: $1 the root folder; FIRKIN_ARCHIVES, a folder with node.tgz, npm.tgz and yarn.tgz; FIRKIN_MODULES, the folder that
# becomes /lib/modules/$FIRKIN_KERNEL. Out: FIRKIN_PACKAGE_LIST.
set -eu
root=$1

# --- users -----------------------------------------------------------------------------------------------------------
# A shell starts no program by itself: under emulation each one takes longer than the shell.
cat >"$root/etc/skel/.bashrc" <<'END'
# Read by interactive bash, and by login shells through ~/.profile.
case $- in *i*) ;; *) return ;; esac
HISTCONTROL=ignoreboth HISTSIZE=1000 HISTFILESIZE=2000
shopt -s histappend checkwinsize
case $TERM in
  xterm-color | *-256color) PS1='\[\e[01;32m\]\u@\h\[\e[00m\]:\[\e[01;34m\]\w\[\e[00m\]\$ ' ;;
  *) PS1='\u@\h:\w\$ ' ;;
esac
case $TERM in xterm* | rxvt*) PS1="\[\e]0;\u@\h: \w\a\]$PS1" ;; esac
alias ls='ls --color=auto' grep='grep --color=auto'
if [ -f ~/.bash_aliases ]; then . ~/.bash_aliases; fi
if [ -f /usr/share/bash-completion/bash_completion ]; then . /usr/share/bash-completion/bash_completion; fi
END
cat >"$root/etc/skel/.profile" <<'END'
# Read by login shells. /etc/profile has put ~/.local/bin into PATH.
if [ -n "$BASH_VERSION" ] && [ -f ~/.bashrc ]; then . ~/.bashrc; fi
if [ -d ~/bin ]; then PATH=~/bin:$PATH; fi
END
chroot "$root" useradd --create-home --uid 1000 --user-group --groups sudo --shell /bin/bash user
chroot "$root" chsh --shell /bin/bash root
# Users and root have no password, so that su asks for none. Nothing in a guest lets people log in.
chroot "$root" passwd --delete --quiet user
chroot "$root" passwd --delete --quiet root
cat >"$root/etc/sudoers.d/user" <<'END'
user ALL=(ALL:ALL) NOPASSWD: ALL
Defaults env_keep += "http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
Defaults env_keep += "SSL_CERT_FILE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS"
END
chmod 0440 "$root/etc/sudoers.d/user"
chroot "$root" visudo --check --quiet
chmod 0755 "$root/home/user"
chroot "$root" install --directory --owner=user --group=user /home/user/.local /home/user/.local/bin
mkdir -m 0777 "$root/code"
chmod 0777 "$root/code"

# --- Node.js, npm and yarn, under /usr/local, where global npm packages go too ----------------------------------------
tar --extract --gzip --file "$FIRKIN_ARCHIVES/node.tgz" --directory "$root/usr/local" --strip-components=1 \
  --no-same-owner package/bin/node
for name in npm yarn; do
  mkdir -p "$root/usr/local/lib/node_modules/$name"
  tar --extract --gzip --file "$FIRKIN_ARCHIVES/$name.tgz" --directory "$root/usr/local/lib/node_modules/$name" \
    --strip-components=1 --no-same-owner
done
npm=$root/usr/local/lib/node_modules/npm
rm -rf "$npm/docs" "$npm/man"
printf 'prefix=/usr/local\nupdate-notifier=false\nfund=false\n' >"$npm/npmrc"
link_program() {
  ln -s "../lib/node_modules/$1" "$root/usr/local/bin/$2"
  chmod 0755 "$root/usr/local/lib/node_modules/$1"
}
link_program npm/bin/npm-cli.js npm
link_program npm/bin/npx-cli.js npx
link_program yarn/bin/yarn.js yarn
link_program yarn/bin/yarn.js yarnpkg
ln -s node "$root/usr/local/bin/nodejs"
# The default user installs programs there: `npm install -g`, `pip install`, `make install`.
chmod -R a+rwX "$root/usr/local"

# --- kernel modules that are loaded on demand -------------------------------------------------------------------------
mkdir -p "$root/lib/modules"
cp -R "$FIRKIN_MODULES" "$root/lib/modules/$FIRKIN_KERNEL"
chroot "$root" depmod "$FIRKIN_KERNEL"

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
sed -i 's|^\( *PATH="\)/|\1$HOME/.local/bin:/|' "$root/etc/profile"
grep -q 'PATH="$HOME/.local/bin' "$root/etc/profile"
mkdir -p "$root/run/e2b"

# --- nothing of the host, of the build, or of no use -----------------------------------------------------------------
chroot "$root" dpkg-query --show --showformat '${Package} ${Version}\n' >"$FIRKIN_PACKAGE_LIST"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/usr/sbin/policy-rc.d" "$root"/etc/ssh/ssh_host_* "$root/etc/.pwd.lock"
rm -f "$root"/etc/*- "$root/var/lib/dpkg"/*-old "$root/var/cache/debconf"/*-old "$root/var/cache/ldconfig/aux-cache"
rm -rf "$root/var/lib/apt/lists" "$root/var/cache/apt" "$root/var/cache/man" "$root"/tmp/* "$root"/var/tmp/*
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
find "$root/var/log" -type f -delete
