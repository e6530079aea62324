#!/usr/bin/env bash
# Makes this machine ready for `npm run demo` and `npm test`. May be run again: it then only checks, within a second.
# usage: scripts/setup.sh [demo|test]     demo: builds dist/ too, for the `npx backupvm` commands that the demo proposes
set -euo pipefail
cd "$(dirname "$0")/.."

# What we need beyond Node.js, as Debian packages, and the programs by which other systems are checked.
packages=(
  qemu-system-x86 # guests; brings qemu-storage-daemon
  qemu-utils # qemu-img, qemu-nbd
  qemu-block-extra # QEMU's drivers beyond local files
  libvirt-daemon-system libvirt-daemon-driver-qemu # libvirtd, virtlogd
  libvirt-clients # virsh
  libnbd-bin # nbdcopy, nbdinfo
  nbdkit # in front of the source, where only changed blocks are copied
  busybox-static cpio e2fsprogs # the demo's guest and its file systems
  openssl # certificates for exports between hosts
)
tools=(
  qemu-system-x86_64 qemu-storage-daemon qemu-img qemu-nbd libvirtd virtlogd virsh nbdcopy nbdinfo nbdkit
  busybox cpio mkfs.ext4 openssl setpriv getent useradd
)
go_needed=1.25 # by the go.mod of the Temporal CLI

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

ticker='' log='' workspace='' policy='' as_root=()
cleanup() {
  if [[ $ticker ]]; then kill "$ticker" 2>/dev/null || true; fi
  if [[ $policy ]]; then "${as_root[@]}" rm -f "$policy"; fi
  rm -rf ${log:+"$log"} ${workspace:+"$workspace"}
}
trap cleanup EXIT

# Runs a command with a line every 10 s instead of its output, of which the end is shown when it fails.
with_progress() {
  local what=$1 status=0 start=$SECONDS
  shift
  log=$(mktemp)
  say "$what"
  # The command stays in the foreground, where Ctrl-C reaches it. `read` from a silent pipe sleeps without a process.
  (while ! read -rt 10 <> <(:); do say "  ... $((SECONDS - start)) s"; done) 2>/dev/null &
  ticker=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  ticker=''
  if ((status != 0)); then tail -n 20 "$log" >&2; fi
  rm -f "$log"
  log=''
  return "$status"
}

install_packages() {
  local missing=() package family=''
  if [[ -r /etc/os-release ]]; then family=$(. /etc/os-release && printf '%s' "${ID:-} ${ID_LIKE:-}"); fi
  if [[ " $family " != *' debian '* ]]; then
    check_tools
    return
  fi
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say 'Debian packages: all there'
    return
  fi
  say "will install these Debian packages, and what they depend on: ${missing[*]}"
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail 'That needs root or sudo, and there is neither; ask an administrator to run' \
      "  apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
    sudo -v || fail 'sudo refused' # asks for the password now, not behind the progress lines
  fi
  with_progress 'apt-get update' apt_get update || fail 'apt-get update failed, see above'
  keep_services_down
  with_progress 'apt-get install, usually less than a minute' apt_get install -y --no-install-recommends "${missing[@]}" ||
    fail 'apt-get install failed, see above'
  cleanup && policy=''
}

# Waits for another apt at work, such as unattended upgrades.
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -o DPkg::Lock::Timeout=300 "$@"
}

# Without systemd a package's attempt to start its service can fail the installation; our programs start libvirtd themselves.
keep_services_down() {
  if [[ -d /run/systemd/system || -e /usr/sbin/policy-rc.d ]]; then return; fi
  policy=/usr/sbin/policy-rc.d
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
}

check_tools() {
  local missing=() tool
  for tool in "${tools[@]}"; do
    # The PATH of a user often lacks the folders of the servers.
    (PATH=$PATH:/usr/sbin:/sbin && command -v "$tool" >/dev/null) || missing+=("$tool")
  done
  ((${#missing[@]} == 0)) || fail 'This is neither Debian nor Ubuntu, so nothing is installed for you' \
    "Missing tools: ${missing[*]}" 'Install them with the package manager of this system, then run this again'
  say 'tools: all there'
}

check_node() {
  local found
  found=$(node --version 2>/dev/null) || fail 'Expected Node.js 20.19 or newer, found none; see https://nodejs.org/en/download'
  [[ $(printf '%s\n' v20.19 "$found" | sort -V | head -n 1) == v20.19 ]] ||
    fail "Expected Node.js 20.19 or newer, found $found; see https://nodejs.org/en/download"
}

install_node_packages() {
  if node scripts/check-node-modules.mjs; then
    say 'npm packages: as in package-lock.json'
  else
    with_progress 'npm ci, about half a minute' npm ci || fail 'npm ci failed, see above'
  fi
}

# The order in which src/embedded/temporal.ts looks for it, then the ways to get it.
provide_temporal_cli() {
  local version cache cli
  version=$(sed -n "s/^export const temporalCLIVersion = '\(.*\)';/\1/p" src/embedded/temporal.ts)
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/backupvm
  if [[ ${TEMPORAL_CLI_PATH:-} ]]; then
    cli=$TEMPORAL_CLI_PATH
    [[ -x $cli ]] || fail "Expected a program at TEMPORAL_CLI_PATH, found none at $cli"
  elif ! cli=$(type -P temporal); then
    cli=$cache/temporal-$version
  fi
  if [[ ! -x $cli ]]; then
    mkdir -p "$cache"
    workspace=$(mktemp -d "$cache/unfinished.XXXXXX") # beside the target: renamed into place when whole
    download_temporal_cli "$version" || build_temporal_cli "$version"
    mv "$workspace/temporal" "$cli"
    rm -rf "$workspace"
    workspace=''
  fi
  say "Temporal CLI: $cli"
}

download_temporal_cli() {
  # The limit is for 100 MB on a slow line. Where there is no way out, it usually fails within a moment.
  with_progress "downloading the Temporal CLI $1" timeout 300 node scripts/download-temporal.mjs "$1" "$workspace" 2>/dev/null
}

build_temporal_cli() {
  local found
  found=$(go env GOVERSION 2>/dev/null | sed 's/^go//') || true
  if [[ ! $found || $(printf '%s\n' "$go_needed" "$found" | sort -V | head -n 1) != "$go_needed" ]]; then
    fail "The Temporal CLI $1 cannot be downloaded from here, and building it needs Go $go_needed or newer, found ${found:-none}" \
      'Do one of these, then run this again:' \
      '  install the Temporal CLI (https://docs.temporal.io/cli), so that `temporal` is on PATH' \
      '  copy it from another machine, and set TEMPORAL_CLI_PATH to it' \
      "  install Go $go_needed from https://go.dev/dl (the one of Debian 12 is too old)"
  fi
  # Caches of its own, removed afterwards: they take 3 GB.
  with_progress "no download from here; building it with Go $found, 3 to 5 minutes on 2 cores, only this once" \
    env GOBIN="$workspace" GOPATH="$workspace/go" GOMODCACHE="$workspace/mod" GOCACHE="$workspace/cache" \
    GOFLAGS=-modcacherw CGO_ENABLED=0 \
    go install -trimpath -ldflags '-s -w' "github.com/temporalio/cli/cmd/temporal@v$1" ||
    fail 'go install failed, see above'
}

build() {
  local built=dist/workflow-bundle.js # what the build writes last
  if [[ -e $built && ! $(find src package-lock.json tsconfig*.json -newer $built -print -quit) ]]; then
    say 'dist: up to date'
  else
    with_progress 'npm run build' npm run build || fail 'npm run build failed, see above'
  fi
}

purpose=${1:-demo}
[[ $purpose == demo || $purpose == test ]] || fail "Expected demo or test, found $purpose"
install_packages
check_node
install_node_packages
provide_temporal_cli
if [[ $purpose == demo ]]; then build; fi
