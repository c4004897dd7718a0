# shellcheck shell=bash
# Messages, logged commands and directories. Sourced by mps.sh and .ci/run; needs ABACUS_ROOT.
# shellcheck disable=SC2034  # the variables are for the scripts that source this one
set -euo pipefail

# Who has no HOME (a service, a bare container) gets the one of the password database, where bash looks for ~ then.
if [[ -z ${HOME:-} ]]; then
  unset HOME
  HOME=~
  export HOME
fi
# Ours is the only Python that is run from here on, and packages for another one in front of its own would break it.
USER_PYTHONPATH=${PYTHONPATH:-}
unset PYTHONPATH PYTHONHOME

BIN=$ABACUS_ROOT/build/bin
CACHE_DIR=${ABACUS_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/abacus}
SETUP_LOG=$ABACUS_ROOT/build/setup.log
# Clones in different folders share what ccache has compiled; it caches with precompiled headers only when allowed to.
export CCACHE_BASEDIR=$ABACUS_ROOT CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros

say() { printf 'abacus: %s\n' "$*"; }
warn() { printf 'abacus: warning: %s\n' "$*" >&2; }
die() {
  printf 'abacus: error: %s\n' "$*" >&2
  exit 1
}
usage_error() {
  printf 'abacus: error: %s (see ./mps.sh help)\n' "$*" >&2
  exit 2
}
no_arguments() {
  (($# == 1)) || usage_error "'$1' takes no argument '$2'"
}
need_value() {
  (($# >= 2)) || usage_error "$1 needs a value"
}

# Prints the absolute path of a file that the user named: relative to the caller's folder, or else to the clone.
find_file() {
  local file=$1
  [[ -f $file || ! -f $ABACUS_ROOT/$file ]] || file=$ABACUS_ROOT/$file
  readlink -m "$file"
}

# Seconds as 75s or 3m05s.
duration() {
  if (($1 < 100)); then printf '%ds' "$1"; else printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); fi
}

# The end of what the last logged command wrote.
log_end() { tac "$SETUP_LOG" | sed '/^== /q' | tac | tail -n "$1"; }

# What the end of the log usually means, one line, or nothing.
explain_log() {
  case $(log_end 60) in
    *"No space left on device"*) printf 'the disk is full: free some space, or point ABACUS_CACHE_DIR to a larger one' ;;
    *"Temporary failure in name resolution"* | *"Temporary failure resolving"* | *"Network is unreachable"* | \
      *"Could not resolve"* | *"Failed to establish a new connection"* | *"Connection timed out"* | *"(from versions: none)"*)
      printf 'the network cannot be reached: check the connection (and https_proxy), then run the same command again'
      ;;
    *"Could not get lock"*) printf 'another package manager is running: wait for it, then run the same command again' ;;
    *"Killed signal terminated program"* | *"internal compiler error: Killed"*)
      printf 'the machine ran out of memory: set ABACUS_JOBS=1 and run the same command again'
      ;;
  esac
}

# logged "what is done" COMMAND...: runs it with its output in SETUP_LOG, says every half minute that it still runs, and
# ends the script with the log's end when it fails. Returns the status instead when LOGGED_MAY_FAIL=1.
logged() {
  local what=$1 status=0 started=$SECONDS heartbeat hint
  shift
  mkdir -p "$(dirname "$SETUP_LOG")"
  printf '\n== %s: %s\n' "$(date -u +%FT%TZ)" "$*" >>"$SETUP_LOG"
  (
    while sleep 30 >/dev/null 2>&1; do say "  still $what ($(duration $((SECONDS - started))))"; done
  ) </dev/null &
  heartbeat=$!
  "$@" >>"$SETUP_LOG" 2>&1 || status=$?
  kill "$heartbeat" 2>/dev/null || true
  wait "$heartbeat" 2>/dev/null || true
  if ((status == 0)) || [[ ${LOGGED_MAY_FAIL:-0} == 1 ]]; then return "$status"; fi
  printf -- '---- last lines of %s\n' "$SETUP_LOG" >&2
  log_end 30 >&2
  printf -- '----\n' >&2
  hint=$(explain_log)
  die "$what failed${hint:+; $hint}"
}
