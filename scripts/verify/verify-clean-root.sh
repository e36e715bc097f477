#!/usr/bin/env bash
# Proves that a clone works on a fresh Debian 12 with only Node.js added: makes such a root folder, clones the last
# commit into it, and runs there, as root, in namespaces of its own (mounts and processes end with them):
#
#   scripts/verify/verify-clean-root.sh setup    npx firkin setup, and doctor
#   scripts/verify/verify-clean-root.sh start    npm start until it listens, the example, a second start   (the default)
#   scripts/verify/verify-clean-root.sh test     npm test
#   scripts/verify/verify-clean-root.sh shell    a shell
#
# It needs root, mmdebstrap, git, and the Node.js that `node` names. Of the host it takes along the settings for package
# mirrors (apt, npm, pip, certificates) and nothing else.
set -euo pipefail

mode=${1:-start}
port=${FIRKIN_PORT:-3917}
repository=$(cd "$(dirname "$0")/../.." && pwd)

# --- inside: pid 1 of the namespaces ---------------------------------------------------------------------------------
if [ "$mode" = --inside ]; then
  mode=$2 root=$3
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  mkdir -p "$root/mnt/old"
  cd "$root"
  # pivot_root instead of chroot, because programs in a chroot may not make user namespaces, and passt makes them.
  pivot_root . mnt/old
  cd /root/firkin
  umount --lazy /mnt/old
  exec bash /root/firkin/scripts/verify/verify-clean-root.sh --run "$mode"
fi

# --- inside, in the new root -----------------------------------------------------------------------------------------
elapsed() { awk -v since="$1" '{ printf "%.1f s", $1 - since }' /proc/uptime; }
now() { cut -d' ' -f1 /proc/uptime; }

answers() {
  node -e "fetch('http://127.0.0.1:$port/health').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"
}

start_until_listening() {
  local since
  since=$(now)
  npm start -- --port "$port" >/root/daemon.log 2> >(tee -a /root/daemon.log >&2) &
  daemon=$!
  until answers; do
    kill -0 "$daemon" 2>/dev/null || { cat /root/daemon.log; echo "npm start has ended before it listened"; exit 1; }
    sleep 0.2
  done
  echo "== listens after $(elapsed "$since")"
}

stop() {
  kill -TERM "$daemon"
  wait "$daemon" || true
  ! answers || { echo "the daemon still answers after npm start has ended"; exit 1; }
}

if [ "$mode" = --run ]; then
  case $2 in
    setup)
      since=$(now)
      npx firkin setup
      echo "== set up after $(elapsed "$since")"
      npx firkin doctor
      ;;
    start)
      echo "== first start"
      start_until_listening
      grep '^export ' /root/daemon.log
      npm run example
      stop
      echo "== second start"
      start_until_listening
      npx firkin doctor
      stop
      ;;
    test)
      since=$(now)
      status=0
      npm test || status=$?
      echo "== npm test ended with status $status after $(elapsed "$since")"
      exit "$status"
      ;;
    shell) bash -i ;;
    *) echo "verify-clean-root: no mode '$2'" >&2; exit 2 ;;
  esac
  exit 0
fi

# --- outside ---------------------------------------------------------------------------------------------------------
root=$(mktemp -d /var/tmp/firkin-clean-root.XXXXXX)
# The mounts of the namespaces are not visible here, so this removes files of the new root only.
trap 'rm -rf --one-file-system "$root"' EXIT

apt-config dump --no-empty --format '%F "%v";%n' Acquire::http Acquire::https Acquire::Check-Date \
  Acquire::Check-Valid-Until >"$root/../$(basename "$root").apt"
trap 'rm -rf --one-file-system "$root" "$root.apt"' EXIT
TMPDIR=/var/tmp mmdebstrap --quiet --mode=root --variant=minbase --format=directory --aptopt="$root.apt" bookworm "$root"

node=$(readlink -f "$(command -v node)")
npm=$(npm root --global)/npm
install -m 0755 "$node" "$root/usr/bin/node"
mkdir -p "$root/usr/lib/node_modules" "$root/usr/include"
cp -r "$npm" "$root/usr/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/bin/npx"
headers=$(dirname "$node")/../include/node
[ ! -d "$headers" ] || cp -r "$headers" "$root/usr/include/node"

for file in "$(npm config get userconfig 2>/dev/null)" /etc/pip.conf; do
  [ ! -f "$file" ] || install -D -m 0600 "$file" "$root$file"
done
environment=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "TERM=${TERM:-dumb}"
  "FIRKIN_PORT=$port")
for variable in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL; do
  [ -z "${!variable:-}" ] || environment+=("$variable=${!variable}")
done
for variable in NODE_EXTRA_CA_CERTS SSL_CERT_FILE PIP_CERT; do
  [ -f "${!variable:-}" ] || continue
  cp "${!variable}" "$root/root/certificates.pem"
  environment+=("$variable=/root/certificates.pem")
done

cp /etc/resolv.conf "$root/etc/resolv.conf"
git clone --quiet --no-hardlinks "$repository" "$root/root/firkin"
echo "== clean root with Node.js $(node --version), commit $(git -C "$root/root/firkin" rev-parse --short HEAD)"

env --ignore-environment "${environment[@]}" unshare --mount --propagation private --pid --fork --kill-child \
  bash "$root/root/firkin/scripts/verify/verify-clean-root.sh" --inside "$mode" "$root"
