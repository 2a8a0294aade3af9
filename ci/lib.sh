# shellcheck shell=bash
# Shared by the scripts in ci/: where things are, how progress and failure are told, how to become root.
# Sourced, never run. What a script does stands in the script itself.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where steps leave their output.
# shellcheck disable=SC2034  # read by the scripts that source this file
LOG_DIR=$ROOT/target/logs
# rustup's folder, also in a shell that was started before rustup came; and that of depmod and others, for ordinary users.
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/sbin

# Terminal colours, only on a terminal.
if [ -t 1 ]; then RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'; else RED='' GREEN='' PLAIN=''; fi

# fail SENTENCE: says what is wrong and ends the script.
fail() {
  printf '%s%s: %s%s\n' "$RED" "${0##*/}" "$*" "$PLAIN" >&2
  exit 1
}

# step NAME LOG COMMAND...: runs COMMAND with its output in LOG, prints one line with the time it took. When it fails, prints the end
# of LOG and ends the script.
step() {
  local name=$1 log=$2 start=${EPOCHREALTIME/[.,]/} tenths status
  shift 2
  printf '  %-36s ' "$name"
  # Not in an `if`, where a function would go on after a failing command.
  set +e
  (
    set -e
    "$@"
  ) >"$log" 2>&1 </dev/null
  status=$?
  set -e
  tenths=$(((${EPOCHREALTIME/[.,]/} - start) / 100000))
  printf '%4d.%d s   ' $((tenths / 10)) $((tenths % 10))
  if [ "$status" = 0 ]; then
    echo "${GREEN}ok$PLAIN"
  else
    echo "${RED}FAILED$PLAIN"
    echo
    tail -n 40 "$log" >&2
    fail "\"$name\" failed: its last lines are above, all of it is in $log"
  fi
}

# build_programs: all programs, optimised little, in target/debug; and culvertd-inject, the culvertd with faults that tests ask for, which
# the released one has not. Always the whole workspace, and --examples, of which there are none: so cargo gives the dependencies the
# features that tests need as well, and builds them once instead of once for each selection of packages (8 GB and minutes).
build_programs() {
  cargo build --quiet --workspace --bins --examples
  cargo build --quiet --workspace --bin culvertd-inject --examples --features culvertd/inject
}

# as_root COMMAND...: runs COMMAND as root, by sudo where this shell is not root.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "needs root for \"$*\", and there is no sudo: run this script as root"
  fi
}

# add_modules MODULES_FOLDER NAME...: copies kernel modules and what they depend on to root/ here, for a guest, numbered in the order in
# which they are loaded.
add_modules() {
  local folder=$1 version number=10 name file base
  version=${folder##*/}
  shift
  # depmod and modprobe want <base>/lib/modules/<version>.
  mkdir -p "depmod/lib/modules" "root/mod/$version"
  cp -r "$folder" depmod/lib/modules/
  depmod -b depmod "$version"
  for name in "$@"; do
    modprobe -d depmod -S "$version" --show-depends "$name" >needed
    while read -r _ file _; do
      base=${file##*/}
      base=${base%.xz}
      compgen -G "root/mod/$version/*-$base" >/dev/null && continue
      case $file in
        *.xz) xz -dc "$file" >"root/mod/$version/$number-$base" ;;
        *) cp "$file" "root/mod/$version/$number-$base" ;;
      esac
      number=$((number + 1))
    done < <(grep '^insmod' needed)
  done
}
