# shellcheck shell=bash
# The life of a controller: start (with the CUDA MPS daemon where the config runs on a GPU), status, stop.
# Sourced by mps.sh.
set -euo pipefail
#
# RUN_DIR/NAME holds controller.log, controller.pid ("PID STARTTIME": the start time tells a recycled pid), drain_s and,
# with MPS, mps/{pipe,log}. RUN_DIR/NAME/mps/owned exists while the daemon is one that start_command started.

# --- what the configuration says --------------------------------------------------------------------------------------

# read_config CONFIG SETTING...: sets CONFIG_{NAME,DRAIN_S,DEVICE,AUTO,GPU,MPS,LOAD_S} and CONFIG_MODELS. DEVICE is cpu,
# cuda or fake (or what the controller will refuse); AUTO is 1 when "auto" was resolved to it. Needs the build: "auto"
# means a GPU only where the CUDA runtime was built.
read_config() {
  local config=$1 line
  shift
  CONFIG_NAME=default CONFIG_DRAIN_S=10 CONFIG_DEVICE=unknown CONFIG_AUTO=0 CONFIG_GPU=0 CONFIG_MPS=true CONFIG_LOAD_S=300
  CONFIG_MODELS=()
  [[ -f $config ]] || die "there is no configuration $config"
  while IFS= read -r line; do
    case $line in
      name=*) CONFIG_NAME=${line#*=} ;;
      drain_timeout_ms=*) CONFIG_DRAIN_S=$((${line#*=} / 1000)) ;;
      device=*) CONFIG_DEVICE=${line#*=} ;;
      gpu=*) CONFIG_GPU=${line#*=} ;;
      mps=*) CONFIG_MPS=${line#*=} ;;
      load_timeout_s=*) CONFIG_LOAD_S=${line#*=} ;;
      model=*) CONFIG_MODELS+=("${line#*=}") ;;
    esac
  done < <("$PYTHON" "$ABACUS_ROOT/scripts/config_info.py" "$ABACUS_ROOT" "$config" "$@")
  if [[ $CONFIG_DEVICE == auto ]]; then
    CONFIG_AUTO=1
    if [[ -e $BIN/libabacus_cuda_runtime.so ]] && has_gpu; then CONFIG_DEVICE=cuda; else CONFIG_DEVICE=cpu; fi
  fi
}

# Exports those models of the configuration that are missing. After read_config.
ensure_config_models() {
  # The exporter knows a CPU and a CUDA form; other devices need no model files.
  if [[ $CONFIG_DEVICE == cpu || $CONFIG_DEVICE == cuda ]]; then
    ((${#CONFIG_MODELS[@]} == 0)) || ensure_models "$CONFIG_DEVICE" "${CONFIG_MODELS[@]}"
  fi
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

# --- processes --------------------------------------------------------------------------------------------------------

# Prints the start time of a process in clock ticks since boot; nothing when it is gone. A zombie is gone: some
# containers have nobody who reaps.
start_time_of() {
  local fields
  read -ra fields < <(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 0
  [[ ${fields[0]} == Z ]] || printf '%s' "${fields[19]}"
}

# Prints the pid of the controller that was started in this folder, or nothing when it is gone.
running_pid() {
  local pid start
  [[ -f $1/controller.pid ]] || return 0
  read -r pid start <"$1/controller.pid" || return 0
  if [[ -n $start && $(start_time_of "$pid") == "$start" ]]; then printf '%s' "$pid"; fi
}

# wait_gone PID SECONDS: false when the process is still there after that.
wait_gone() {
  local deadline=$((SECONDS + $2))
  while [[ -n $(start_time_of "$1") ]]; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# --- CUDA MPS ---------------------------------------------------------------------------------------------------------

# use_gpu FOLDER: makes the configured GPU ready, with MPS where the configuration wants it; sets GPU_ARGUMENTS, for the
# program that will run on it. Nothing to do on other devices. After read_config.
use_gpu() {
  GPU_ARGUMENTS=()
  export CUDA_DEVICE_ORDER=PCI_BUS_ID # nvidia-smi's order, which `gpu` counts in
  if [[ $CONFIG_DEVICE == cuda && $CONFIG_MPS == true ]]; then
    start_mps "$1" "$CONFIG_GPU"
    # Clients of a daemon that has one GPU see it as the first.
    if [[ -e $1/mps/owned ]]; then GPU_ARGUMENTS=(--set worker.gpu=0); fi
  fi
}

# start_mps FOLDER GPU: exports CUDA_MPS_PIPE_DIRECTORY and CUDA_MPS_LOG_DIRECTORY of a running daemon for this GPU: one
# that the environment names and that answers, else a new one. Compute mode, clocks and partitions stay as they are.
start_mps() {
  local folder=$1/mps uuid
  command -v nvidia-cuda-mps-control >/dev/null ||
    die "nvidia-cuda-mps-control is missing (it comes with the NVIDIA driver); without it use --set worker.mps=false"
  if [[ -n ${CUDA_MPS_PIPE_DIRECTORY:-} ]] && mps_answers; then
    say "using the CUDA MPS daemon of $CUDA_MPS_PIPE_DIRECTORY"
    return
  fi
  # The GPU by its UUID: CUDA numbers devices differently from nvidia-smi.
  uuid=$(nvidia-smi -i "$2" --query-gpu=uuid --format=csv,noheader 2>/dev/null) || die "there is no GPU $2"
  export CUDA_MPS_PIPE_DIRECTORY=$folder/pipe CUDA_MPS_LOG_DIRECTORY=$folder/log
  # The daemon binds sockets in the folder; the system limits a socket's path to 107 bytes.
  ((${#CUDA_MPS_PIPE_DIRECTORY} <= 80)) ||
    die "the path $CUDA_MPS_PIPE_DIRECTORY is too long for CUDA MPS: set ABACUS_RUN_DIR to a shorter one"
  mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
  touch "$folder/owned"  # before it runs: an interruption must not leave it behind
  if ! mps_answers; then
    say "starting the CUDA MPS daemon for GPU $2"
    CUDA_VISIBLE_DEVICES=$uuid nvidia-cuda-mps-control -d >"$folder/start.log" 2>&1 ||
      die "the CUDA MPS daemon does not start: $(tail -n 3 "$folder/start.log")"
  fi
}

mps_answers() {
  [[ -S $CUDA_MPS_PIPE_DIRECTORY/control || -p $CUDA_MPS_PIPE_DIRECTORY/control ]] &&
    timeout 10 nvidia-cuda-mps-control <<<get_server_list >/dev/null 2>&1
}

# stop_mps FOLDER: stops the daemon that start_mps started there, if any.
stop_mps() {
  local folder=$1/mps pid=''
  [[ -e $folder/owned ]] || return 0
  [[ -f $folder/pipe/nvidia-cuda-mps-control.pid ]] && pid=$(<"$folder/pipe/nvidia-cuda-mps-control.pid")
  CUDA_MPS_PIPE_DIRECTORY=$folder/pipe timeout 20 nvidia-cuda-mps-control <<<quit >/dev/null 2>&1 || true
  if [[ $pid =~ ^[0-9]+$ ]] && ! wait_gone "$pid" 10; then
    warn "the CUDA MPS daemon (pid $pid) is still there; see $folder/log"
    return 0
  fi
  rm -f "$folder/owned"
}

# --- start ------------------------------------------------------------------------------------------------------------

start_command() {
  local config='' name='' foreground=0 settings=()
  while (($# > 0)); do
    case $1 in
      --name) need_value "$@" && name=$2 && shift ;;
      --name=*) name=${1#*=} ;;
      --set) need_value "$@" && settings+=("$2") && shift ;;
      --set=*) settings+=("${1#*=}") ;;
      --foreground) foreground=1 ;;
      -*) usage_error "start: unknown option '$1'" ;;
      *)
        [[ -z $config ]] || usage_error "start takes one configuration, not '$config' and '$1'"
        config=$1
        ;;
    esac
    shift
  done
  config=$(find_file "${config:-$ABACUS_ROOT/configs/default.toml}")
  [[ -z $name ]] || settings+=("server.name=$name")
  setup_all "${PROGRAMS[@]}"
  start_controller "$config" "$foreground" ${settings[@]+"${settings[@]}"}
}

# start_controller CONFIG FOREGROUND SETTING...: returns once every service serves; sets STARTED_NAME, STARTED_FOLDER
# and STARTED_ENDPOINT. Leaves nothing running when it fails.
start_controller() {
  local config=$1 foreground=$2 setting arguments run_dir pid
  shift 2
  read_config "$config" "$@"
  # Said explicitly, so that this script and the controller cannot come to different conclusions about "auto".
  ((CONFIG_AUTO == 0)) || set -- "$@" "worker.device=$CONFIG_DEVICE"
  ensure_config_models
  run_dir=$(run_directory)
  STARTED_NAME=$CONFIG_NAME
  STARTED_FOLDER=$run_dir/$CONFIG_NAME
  mkdir -p "$STARTED_FOLDER"
  pid=$(running_pid "$STARTED_FOLDER")
  [[ -z $pid ]] ||
    die "a controller named '$CONFIG_NAME' is running (pid $pid): stop it (./mps.sh stop --name $CONFIG_NAME) or start" \
      "this one with --name"
  arguments=(--config "$config")
  for setting in "$@"; do arguments+=(--set "$setting"); done

  trap 'abort_start "interrupted"' INT TERM
  use_gpu "$STARTED_FOLDER"
  arguments+=(${GPU_ARGUMENTS[@]+"${GPU_ARGUMENTS[@]}"})
  printf '%s' "$CONFIG_DRAIN_S" >"$STARTED_FOLDER/drain_s"
  rm -f "$STARTED_FOLDER/controller.pid"
  if ((foreground)); then
    attend "$STARTED_FOLDER/controller.pid" "$BIN/abacus-controller" "${arguments[@]}"
    rm -f "$STARTED_FOLDER/controller.pid"
    stop_mps "$STARTED_FOLDER"
    exit "$ATTENDED_STATUS"
  fi
  setsid "$BIN/abacus-controller" "${arguments[@]}" >"$STARTED_FOLDER/controller.log" 2>&1 </dev/null &
  STARTED_PID=$!
  printf '%s %s\n' "$STARTED_PID" "$(start_time_of "$STARTED_PID")" >"$STARTED_FOLDER/controller.pid"
  wait_serving "$STARTED_PID"
  trap - INT TERM
}

# attend PID_FILE PROGRAM ARGUMENT...: runs the program and waits for it; sets ATTENDED_STATUS. A signal to us is passed
# on, so that it ends in its own way, and we wait for that.
attend() {
  local pid_file=$1 pid
  shift
  setsid "$@" </dev/null &
  pid=$!
  # shellcheck disable=SC2064  # the pid of now
  trap "kill -TERM $pid 2>/dev/null || true" INT TERM
  printf '%s %s\n' "$pid" "$(start_time_of "$pid")" >"$pid_file"
  while :; do
    wait "$pid" && ATTENDED_STATUS=0 || ATTENDED_STATUS=$?
    [[ -d /proc/$pid ]] || break
  done
  trap - INT TERM
}

# abort_start REASON: stops what start_controller started, shows the log's end and exits.
abort_start() {
  trap - INT TERM
  stop_controller "$STARTED_FOLDER" quiet
  if [[ -s $STARTED_FOLDER/controller.log ]]; then
    printf -- '---- last lines of %s\n' "$STARTED_FOLDER/controller.log" >&2
    tail -n 20 "$STARTED_FOLDER/controller.log" >&2
    printf -- '----\n' >&2
  fi
  die "'$STARTED_NAME' did not start: $1"
}

# Prints "endpoint ENDPOINT" and a line "service NAME STATE DEVICE ERROR" for each service of a running controller.
controller_state() {
  "$BIN/abacus-status" --name "$1" --json 2>/dev/null | "$PYTHON" -c '
import json, sys
try:
    status = json.load(sys.stdin)
except ValueError:
    sys.exit(0)
print("endpoint", status["endpoint"])
if status["policy"] == "abacus":
    print("predictor", status["predictor"]["description"])
for service in status["services"]:
    print("service", service["service"] or "?", service["state"], service["device"] or "-", service["error"].replace("\n", " "))
'
}

# Waits until every service serves, and says what each is doing whenever that changes.
wait_serving() {
  local pid=$1 deadline=$((SECONDS + CONFIG_LOAD_S + 30)) kind name state device error failed_since='' serving total
  local predictor=''
  declare -A shown=()
  say "starting '$STARTED_NAME' on ${CONFIG_DEVICE} (log: $STARTED_FOLDER/controller.log)"
  while :; do
    if ! kill -0 "$pid" 2>/dev/null; then
      local status=0
      wait "$pid" || status=$?
      abort_start "the controller ended with status $status"
    fi
    serving=0 total=0 error=''
    while read -r kind name state device error_text; do
      if [[ $kind == endpoint ]]; then
        STARTED_ENDPOINT=$name
        continue
      elif [[ $kind == predictor ]]; then
        predictor="$name $state $device $error_text"
        continue
      fi
      total=$((total + 1))
      [[ $state != serving ]] || serving=$((serving + 1))
      [[ $state != failed && $state != exited ]] || error="$name: ${error_text:-$state}"
      if [[ ${shown[$name]:-} != "$state" && $name != "?" ]]; then
        shown[$name]=$state
        say "  $name: $state$([[ $device == - ]] || printf ' (%s)' "$device")"
      fi
    done < <(controller_state "$STARTED_NAME")
    if ((total > 0 && serving == total)); then
      say "'$STARTED_NAME' serves at $STARTED_ENDPOINT"
      [[ -z $predictor ]] || say "predictor: $predictor"
      return
    fi
    # A crashed worker is restarted; one that stays down for 5 seconds will not come by itself.
    if [[ -z $error ]]; then
      failed_since=''
    elif [[ -z $failed_since ]]; then
      failed_since=$SECONDS
    elif ((SECONDS - failed_since >= 5)); then
      abort_start "$error"
    fi
    ((SECONDS < deadline)) || abort_start "$serving of $total services serve after $(duration $((CONFIG_LOAD_S + 30)))"
    sleep 0.2
  done
}

# --- status and stop --------------------------------------------------------------------------------------------------

status_command() {
  local name=default arguments=()
  while (($# > 0)); do
    case $1 in
      --name) need_value "$@" && name=$2 && shift ;;
      --name=*) name=${1#*=} ;;
      --json) arguments+=(--json) ;;
      *) usage_error "status: unknown argument '$1'" ;;
    esac
    shift
  done
  if [[ ! -x $BIN/abacus-status ]]; then
    printf "abacus: no controller '%s' is running (nothing is built yet)\n" "$name" >&2
    exit 3
  fi
  exec "$BIN/abacus-status" --name "$name" ${arguments[@]+"${arguments[@]}"}
}

stop_command() {
  local name=default folder
  while (($# > 0)); do
    case $1 in
      --name) need_value "$@" && name=$2 && shift ;;
      --name=*) name=${1#*=} ;;
      *) usage_error "stop: unknown argument '$1'" ;;
    esac
    shift
  done
  [[ $name =~ ^[A-Za-z0-9_-]+$ ]] || usage_error "stop: '$name' is not the name of a controller"
  folder=$(run_directory)/$name
  if [[ -z $(running_pid "$folder") ]]; then
    stop_controller "$folder" quiet
    say "no controller '$name' is running"
    return
  fi
  stop_controller "$folder" loud
  say "stopped '$name'"
}

# stop_controller FOLDER quiet|loud: drains and ends the controller of this folder, then its MPS daemon. The wait is the
# drain time of its configuration and 10 seconds more; then it is killed.
stop_controller() {
  local folder=$1 pid drain_s=10
  pid=$(running_pid "$folder")
  if [[ -n $pid ]]; then
    [[ ! -s $folder/drain_s ]] || drain_s=$(<"$folder/drain_s")
    [[ $2 == quiet ]] || say "stopping (pid $pid; answering what was accepted takes up to $(duration "$drain_s"))"
    kill -TERM "$pid" 2>/dev/null || true
    if ! wait_gone "$pid" $((drain_s + 10)); then
      warn "the controller (pid $pid) did not end by itself; killing it"
      kill -KILL "$pid" 2>/dev/null || true
      wait_gone "$pid" 10 || warn "pid $pid is still there"
    fi
  fi
  rm -f "$folder/controller.pid"
  stop_mps "$folder"
}
