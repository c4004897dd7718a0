# shellcheck shell=bash
# The demo and the tests. Sourced by mps.sh.
set -euo pipefail

# Serves the default models under a name and a port of its own, shows them to a person, and stops them again.
demo_command() {
  no_arguments demo "$@"
  local started=$SECONDS
  setup_all "${PROGRAMS[@]}"
  say "serving EfficientNet-Lite0 (images) and MiniLM (sentences) for the demo, on a free port"
  trap 'finish_demo $?' EXIT
  # Without giving up: on a slow or busy machine queries come late instead of failing.
  start_controller "$ABACUS_ROOT/configs/default.toml" 0 "server.name=demo-$$" "server.listen=tcp://127.0.0.1:*" \
    "scheduler.abandon=false"
  ((${#STARTED_DOWN[@]} == 0)) || die "not every service of the demo serves"
  (
    cd "$ABACUS_ROOT"
    PYTHONPATH=client/python "$PYTHON" client/python/examples/demo.py --address "$STARTED_ENDPOINT" \
      --models models/store --client "$BIN/abacus-client"
  )
  say "now load: $DEMO_RATE queries a second for $DEMO_SECONDS s, spread over the services"
  "$BIN/abacus-client" load --address "$STARTED_ENDPOINT" --rate "$DEMO_RATE" --seconds "$DEMO_SECONDS"
  stop_controller "$STARTED_FOLDER" quiet
  say "the demo worked, in $(duration $((SECONDS - started))); serve for yourself with: ./mps.sh start"
}
DEMO_RATE=10
DEMO_SECONDS=10

# finish_demo STATUS: whatever happened, nothing keeps running. The log stays only after a failure.
finish_demo() {
  trap - EXIT
  [[ -n ${STARTED_FOLDER:-} ]] || exit "$1"
  stop_controller "$STARTED_FOLDER" quiet
  if (($1 == 0)); then
    rm -rf "$STARTED_FOLDER"
  else
    warn "the demo failed; the controller's log: $STARTED_FOLDER/controller.log"
  fi
  exit "$1"
}

# Builds, then runs the C++ tests and the Python tests; fails when either does, after running both.
test_command() {
  no_arguments test "$@"
  local failed=()
  setup_all all
  cd "$ABACUS_ROOT"
  say "C++ tests"
  ctest --test-dir build --output-on-failure -j2 || failed+=(C++)
  say "Python tests"
  PYTHONPATH=client/python "$PYTHON" -m pytest -q tests/python || failed+=(Python)
  ((${#failed[@]} == 0)) || die "tests failed: ${failed[*]}"
}
