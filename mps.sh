#!/usr/bin/env bash
# The one command of Abacus: sets up what is missing, builds, serves, shows and tests. `./mps.sh help` lists everything.
# The pieces are in scripts/: common.sh (messages), setup.sh (packages, Python, build, models), serve.sh (controller and
# CUDA MPS daemons), predict.sh (profile, train and trace), demo.sh (demo and test).
set -euo pipefail

ABACUS_ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=scripts/common.sh
. "$ABACUS_ROOT/scripts/common.sh"
# shellcheck source=scripts/setup.sh
. "$ABACUS_ROOT/scripts/setup.sh"
# shellcheck source=scripts/serve.sh
. "$ABACUS_ROOT/scripts/serve.sh"
# shellcheck source=scripts/predict.sh
. "$ABACUS_ROOT/scripts/predict.sh"
# shellcheck source=scripts/demo.sh
. "$ABACUS_ROOT/scripts/demo.sh"

usage() {
  cat <<'END'
Abacus serves several DNNs on one GPU (or on the CPU) with predictable latency.

  ./mps.sh demo                  serve two real models on a free port, classify an image, embed sentences, put them
                                 under load, stop
  ./mps.sh start [CONFIG]        serve CONFIG (default: configs/default.toml) in the background; exit code 3 when it
                                 serves, but not every service does
      --name NAME                run it under this name instead of the one in CONFIG
      --set SECTION.KEY=VALUE    change one setting of CONFIG; repeatable
      --foreground               stay attached; Ctrl-C drains and stops
  ./mps.sh status                show services, queues and latencies; exit code 3 when nothing runs
      --name NAME                of this controller (default: default)
      --json                     for programs
  ./mps.sh stop                  answer what was accepted, then stop
      --name NAME                this controller (default: default)
  ./mps.sh trace FILE            write the last rounds, ranges and queries of a running controller, for
                                 https://ui.perfetto.dev
      --name NAME                of this controller (default: default)
  ./mps.sh profile [CONFIG]      measure the models of CONFIG alone and together, for the latency predictor; goes on
                                 where an interrupted run stopped
      --minutes M                time for groups of models in this run, solo times come on top (default: 10)
      --groups N                 or: until there are N groups in all
      --repetitions N            of each measurement (default: 3)
      --seed N                   of the groups that are chosen (default: 1)
      --out FILE                 the profile (default: profiles/NAME.jsonl for NAME.toml)
      --nvidia-smi-gpu ID        the GPU whose driver and clocks are noted, where nvidia-smi counts otherwise than CUDA
      --set SECTION.KEY=VALUE    change one setting of CONFIG; repeatable
      --fresh                    start over
  ./mps.sh train [CONFIG]        train the latency predictor on the profile of CONFIG and say how good it is
      PROFILE...                 on these profiles instead
      --out FILE                 the predictor (default: profiles/NAME.predictor)
      --report DIR               tables and plots of its error (default: profiles/NAME.report)
      --help                     lists more options, e.g. --epochs
  ./mps.sh test                  build, then run all tests
  ./mps.sh export ARGUMENTS      run models/export.py, e.g.: export resnet50 --weights pretrained --out models/store
  ./mps.sh setup                 only install, build and export models (the other commands do it when needed)
  ./mps.sh help

The first run installs packages (apt), PyTorch 2.11 (pip, about 3 GB to fetch, shared by all clones) and compiles; later
runs skip what is done.

Environment:
  ABACUS_CACHE_DIR       where Python packages live (default: $XDG_CACHE_HOME/abacus or ~/.cache/abacus)
  ABACUS_RUN_DIR         sockets, locks and logs of running controllers (default: $XDG_RUNTIME_DIR/abacus or
                         /tmp/abacus-UID)
  ABACUS_SKIP_PACKAGES   1: use the system as it is, install no packages
  ABACUS_JOBS            parallel compile jobs (default: by cores and memory)
  Torch_DIR, CMAKE_PREFIX_PATH   where an installed LibTorch 2.11 is, to build with it instead of pip's
END
}

main() {
  local command=${1:-help}
  shift || true
  case $command in
    demo) demo_command "$@" ;;
    start) start_command "$@" ;;
    status) status_command "$@" ;;
    stop) stop_command "$@" ;;
    trace) trace_command "$@" ;;
    profile) profile_command "$@" ;;
    train) train_command "$@" ;;
    test) test_command "$@" ;;
    export)
      ensure_packages "${APT_PACKAGES[@]}"
      ensure_python
      # An export ends by loading its files in the worker. Paths of the user's are relative to the folder of now.
      (ensure_build abacus-worker)
      export ABACUS_WORKER=$BIN/abacus-worker
      # The user's PYTHONPATH comes last: modules of their own are found there, but none takes the place of ours.
      exec "$PYTHON" -P -c 'import runpy, sys
sys.path += filter(None, sys.argv.pop(1).split(":"))
runpy.run_path(sys.argv.pop(1), run_name="__main__")' "$USER_PYTHONPATH" "$ABACUS_ROOT/models/export.py" "$@"
      ;;
    setup)
      no_arguments setup "$@"
      setup_all "${PROGRAMS[@]}" abacus-fake-worker abacus-profile
      read_config "$ABACUS_ROOT/configs/default.toml"
      ensure_models "$CONFIG_DEVICE" "${CONFIG_MODELS[@]}"
      say "ready: ./mps.sh demo, or ./mps.sh start"
      ;;
    help | -h | --help) usage ;;
    *)
      usage >&2
      usage_error "unknown command '$command'"
      ;;
  esac
}

main "$@"
