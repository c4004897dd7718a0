# shellcheck shell=bash
# Everything between a bare Debian or Ubuntu and a built system with models. Each step looks first and does nothing,
# silently, when its work is done. Sourced by mps.sh and .ci/run.
set -euo pipefail

# Packages of the build, the tests and the Python environment. The names are those of Debian 12 and Ubuntu 24.04.
APT_PACKAGES=(
  ca-certificates git cmake ninja-build g++ pkg-config ccache
  libboost-dev libzmq3-dev cppzmq-dev libmsgpack-cxx-dev libtomlplusplus-dev libspdlog-dev libfmt-dev libcli11-dev
  libexpected-dev nlohmann-json3-dev libsvm-dev libssl-dev
  libgtest-dev libgmock-dev
  python3 python3-venv python3-dev
)
TORCH_VERSION=2.11
VENV_GIB=10  # disk that installing the Python environment takes; 6 stay in use

# What serving needs, without profiling, training, tests and benchmarks.
# shellcheck disable=SC2034  # used by the scripts that source this one
PROGRAMS=(abacus-controller abacus-worker abacus-client abacus-status)

# setup_all TARGET...: everything up to these build targets.
setup_all() {
  ensure_packages "${APT_PACKAGES[@]}"
  ensure_python
  ensure_build "$@"
}

# --- packages ---------------------------------------------------------------------------------------------------------

# Prints those of the named packages that are not installed.
missing_packages() {
  local installed package
  # dpkg-query fails when it has never heard of one of them.
  installed=$({ dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true; } |
    sed -n 's/ installed$//p')
  for package in "$@"; do
    grep -qxF -- "$package" <<<"$installed" || printf '%s\n' "$package"
  done
}

check_system() {
  local id='' version=''
  if [[ -r /etc/os-release ]]; then
    # shellcheck disable=SC1091
    id=$(. /etc/os-release && printf '%s' "${ID:-}")
    # shellcheck disable=SC1091
    version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")
  fi
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    die "this system has no apt-get; Abacus installs itself on Debian 12 and Ubuntu 24.04. Elsewhere, install what" \
      "these packages provide and set ABACUS_SKIP_PACKAGES=1: ${APT_PACKAGES[*]}"
  fi
  case $id-$version in
    debian-12* | ubuntu-24.04*) ;;
    *) warn "tested on Debian 12 and Ubuntu 24.04, this is ${id:-unknown} ${version:-}; trying all the same" ;;
  esac
}

# ensure_packages PACKAGE...: installs the missing ones.
ensure_packages() {
  [[ ${ABACUS_SKIP_PACKAGES:-0} != 1 ]] || return 0
  local missing as_root=()
  if command -v dpkg-query >/dev/null; then
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]} > 0)) || return 0
  fi
  check_system
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      as_root=(false)
    elif sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    elif [[ -t 0 ]]; then
      say "sudo may ask for your password, to install: ${missing[*]}"
      sudo -v || die "these packages are missing: ${missing[*]}"
      as_root=(sudo -n)
    else
      as_root=(false)
    fi
    [[ ${as_root[0]} != false ]] || die "these packages are missing and installing them needs root: ${missing[*]}
Run this as root, then run the same command again:
  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "installing ${#missing[@]} packages (a few minutes, once): ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  # Package lists may be absent (a container) or stale; an unreachable mirror shows in the install step.
  LOGGED_MAY_FAIL=1 logged "refreshing the package lists" "${apt[@]}" update || true
  logged "installing packages" "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
}

# --- Python -----------------------------------------------------------------------------------------------------------

# Prints "ABI TORCH PYTHON" for each Python (3.11 or later) that an environment can stand on; TORCH is the PyTorch that
# it brings, "-" without. The distribution's comes first: what `python3` is depends on who asks.
usable_pythons() {
  local python
  for python in "$SYSTEM_PYTHON" python3; do
    command -v "$python" >/dev/null || continue
    # -P, which older ones do not know: nothing from the current folder. From the package's metadata: importing PyTorch
    # takes seconds.
    "$python" -P - "$TORCH_VERSION" 2>/dev/null <<'END' || true
import importlib.metadata as metadata, sys, sysconfig, venv
try:
    torch = metadata.version("torch")
except metadata.PackageNotFoundError:
    torch = ""
if not torch.startswith(sys.argv[1] + "."):
    torch = "-"
    import ensurepip
print(sysconfig.get_config_var("SOABI"), torch, sys.executable)
END
  done
}
SYSTEM_PYTHON=/usr/bin/python3

# Prints a Python for what needs no packages.
find_python() {
  local abi torch python
  read -r abi torch python < <(usable_pythons) || die "no Python 3.11 or later with the venv module was found"
  printf '%s' "$python"
}

# venv_of ABI TORCH: the environment's folder. Its name follows from what is installed there, not from who asked for it.
venv_of() {
  local key
  key=$({ cat "$ABACUS_ROOT/requirements.txt" && printf '%s %s\n' "$1" "$2"; } | sha256sum | cut -c1-12)
  printf '%s/venv-%s' "$CACHE_DIR" "$key"
}

# What it stands on (a Python, perhaps with PyTorch) may have been removed meanwhile.
venv_complete() {
  [[ -x $1/bin/python && -s $1/.complete && -d $(<"$1/.complete") ]]
}

# Sets PYTHON (of the environment that has every pinned package) and TORCH_CMAKE (the CMake prefix of its PyTorch).
# The environment lies outside the clone, is shared by all clones and counts as done once it holds `.complete`.
ensure_python() {
  local abi torch python candidate candidates venv base='' system_torch=-
  mapfile -t candidates < <(usable_pythons)
  ((${#candidates[@]} > 0)) || die "no Python 3.11 or later with the venv module was found"
  # One that is there is taken, whatever it stands on: a second one is 3 GB for nothing.
  for candidate in "${candidates[@]}"; do
    read -r abi torch python <<<"$candidate"
    for venv in "$(venv_of "$abi" -)" "$(venv_of "$abi" "$torch")"; do
      if venv_complete "$venv"; then
        use_venv "$venv"
        return
      fi
    done
  done
  for candidate in "${candidates[@]}"; do
    read -r abi torch python <<<"$candidate"
    if [[ $torch != - ]] && "$python" -P -c 'import torch' >/dev/null 2>&1; then
      base=$python system_torch=$torch
      break
    fi
  done
  if [[ -z $base ]]; then read -r abi torch base <<<"${candidates[0]}"; fi
  venv=$(venv_of "$abi" "$system_torch")
  mkdir -p "$CACHE_DIR" || die "cannot create $CACHE_DIR: set ABACUS_CACHE_DIR to a folder that can be written"
  exec {venv_lock}>"$venv.lock"
  if ! flock -n "$venv_lock"; then
    say "waiting for another set-up that prepares the Python environment"
    flock "$venv_lock"
  fi
  venv_complete "$venv" || make_venv "$base" "$venv" "$system_torch"
  flock -u "$venv_lock"  # closing is not enough while a child still holds the file
  exec {venv_lock}>&-
  use_venv "$venv"
}

use_venv() {
  PYTHON=$1/bin/python
  TORCH_CMAKE=$(<"$1/.complete")
}

# make_venv BASE VENV SYSTEM_TORCH: SYSTEM_TORCH is the version of the PyTorch that BASE brings and that is to be used, or
# "-" to install one.
make_venv() {
  local base=$1 venv=$2 system_torch=$3
  rm -rf "$venv"
  if [[ $system_torch != - ]]; then
    make_venv_over_system "$base" "$venv" "$system_torch"
  else
    local free_gib
    free_gib=$(df -Pk "$CACHE_DIR" | awk 'NR == 2 {print int($4 / 1048576)}')
    ((free_gib >= VENV_GIB)) || die "installing PyTorch takes $VENV_GIB GiB but $CACHE_DIR has only $free_gib GiB free;" \
      "free some space, or point ABACUS_CACHE_DIR to a larger disk"
    say "installing PyTorch $TORCH_VERSION and the Python packages into $venv (about 3 GB to fetch, once; minutes)"
    logged "creating the Python environment" "$base" -I -m venv "$venv"
    logged "installing Python packages" "$venv/bin/python" -I -m pip install --no-input --disable-pip-version-check \
      -r "$ABACUS_ROOT/requirements.txt"
  fi
  torch_cmake_of "$venv/bin/python" >"$venv/.complete.part" || die "PyTorch was installed but cannot be found in $venv"
  mv "$venv/.complete.part" "$venv/.complete"
}

# The system brings PyTorch (and perhaps more): take what it has, in whatever version, and add only what is missing.
make_venv_over_system() {
  local base=$1 venv=$2 system_torch=$3 missing
  say "using the installed PyTorch $system_torch; preparing $venv"
  LOGGED_MAY_FAIL=1 logged "creating the Python environment" "$base" -I -m venv "$venv" ||
    logged "creating the Python environment" "$base" -I -m venv --without-pip --clear "$venv"
  # Not --system-site-packages: that would pass over a base that is a virtual environment itself.
  "$base" -P -c 'import sys; print("\n".join(path for path in sys.path if path.endswith("-packages")))' \
    >"$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/abacus-base.pth"
  mapfile -t missing < <("$venv/bin/python" -I - "$ABACUS_ROOT/requirements.txt" <<'END'
import importlib.metadata as metadata, sys
for line in open(sys.argv[1], encoding="utf-8"):
    requirement = line.split("#")[0].strip()
    if requirement:
        try:
            metadata.version(requirement.split("==")[0])
        except metadata.PackageNotFoundError:
            print(requirement)
END
  )
  ((${#missing[@]} > 0)) || return 0
  say "installing Python packages: ${missing[*]}"
  logged "installing Python packages" "$venv/bin/python" -I -m pip install --no-input --disable-pip-version-check \
    "${missing[@]}"
}

# Prints the CMake prefix of a Python's PyTorch.
torch_cmake_of() {
  "$1" -I -c \
    'import importlib.util as u, os; print(os.path.join(os.path.dirname(u.find_spec("torch").origin), "share", "cmake"))'
}

# --- build ------------------------------------------------------------------------------------------------------------

# Prints the folder of a LibTorch that the user named, or nothing.
named_torch_dir() {
  local prefix folder
  if [[ -n ${Torch_DIR:-} ]]; then
    [[ -f $Torch_DIR/TorchConfig.cmake ]] || die "Torch_DIR is set but there is no $Torch_DIR/TorchConfig.cmake"
    printf '%s' "$Torch_DIR"
    return
  fi
  IFS=':;' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    for folder in "$prefix" "$prefix/Torch" "$prefix/share/cmake/Torch"; do
      if [[ -n $prefix && -f $folder/TorchConfig.cmake ]]; then
        printf '%s' "$folder"
        return
      fi
    done
  done
}

# As many compile jobs as there are cores, but no more than memory allows: a LibTorch translation unit takes 2 GiB.
build_jobs() {
  local cores gib
  cores=$(nproc)
  gib=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
  local by_memory=$((gib / 2 > 0 ? gib / 2 : 1))
  printf '%d' "${ABACUS_JOBS:-$((cores < by_memory ? cores : by_memory))}"
}

# ensure_build TARGET...: configures when something that CMake cannot see changed, then lets ninja decide what to compile.
ensure_build() {
  local torch_dir key started=$SECONDS
  torch_dir=$(named_torch_dir)
  torch_dir=${torch_dir:-$TORCH_CMAKE/Torch}
  key="$ABACUS_ROOT $torch_dir $(sha256sum <"$ABACUS_ROOT/CMakePresets.json")"
  cd "$ABACUS_ROOT"
  if [[ ! -f build/build.ninja || ! -f build/.configured || $(<build/.configured) != "$key" ]]; then
    say "configuring the build"
    logged "configuring the build" cmake --fresh --preset release "-DTorch_DIR=$torch_dir"
    printf '%s' "$key" >build/.configured
  fi
  if ! ninja -C build -n "$@" 2>/dev/null | grep -q 'no work to do'; then
    say "compiling (the first time about 3 minutes on 2 cores, 6 with the tests)"
    logged "compiling" cmake --build build -j "$(build_jobs)" --target "$@"
    say "compiled in $(duration $((SECONDS - started)))"
  fi
}

# --- models -----------------------------------------------------------------------------------------------------------

# Prints the path of the model file that a description names, at the top of it; without a name it is NAME.pt.
model_file_of() {
  local file
  file=$(sed -n "/^\[/q; s/^file *= *[\"']\(.*\)[\"'].*/\1/p" "$1")
  printf '%s/%s' "$(dirname "$1")" "${file:-$(basename "$1" .toml).pt}"
}

# ensure_models DEVICE NAME...: exports the models that models/store lacks, and those that this function exported before
# for another device or with older code. Needs the worker, which has the last word on every export. Files that somebody put there by hand are taken as they are.
ensure_models() {
  local device=$1 name stale=() key stamp store=$ABACUS_ROOT/models/store
  shift
  key=$device-$(cat "$ABACUS_ROOT"/models/export.py "$ABACUS_ROOT"/models/abacus_export/*.py | sha256sum | cut -c1-16)
  for name in "$@"; do
    stamp=$store/.$name.stamp
    if [[ ! -f $store/$name.toml || ! -f $(model_file_of "$store/$name.toml") ]] || [[ -f $stamp && $(<"$stamp") != "$key" ]]; then
      stale+=("$name")
    fi
  done
  ((${#stale[@]} > 0)) || return 0
  say "exporting models: ${stale[*]} (up to a minute each, once)"
  logged "exporting models" env ABACUS_WORKER="$BIN/abacus-worker" "$PYTHON" "$ABACUS_ROOT/models/export.py" "${stale[@]}" --out "$store" --device "$device"
  for name in "${stale[@]}"; do printf '%s' "$key" >"$store/.$name.stamp"; done
}
