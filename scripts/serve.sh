# shellcheck shell=bash
# The life of a controller: start (with CUDA MPS daemons where the config runs on GPUs), status, stop. Sourced by mps.sh.
set -euo pipefail
#
# RUN_DIR/NAME holds controller.log, controller.pid ("PID STARTTIME": the start time tells a recycled pid), drain_s and,
# with MPS, mps/{pipe,log}; with several GPUs mps-0, mps-1, ... instead, by place in `[worker] gpu`. `owned` in such a
# folder says that its daemon is one that start_command started, and for which GPU (its UUID).

# --- what the configuration says --------------------------------------------------------------------------------------

# The controller says where it keeps its files.
run_dir() { "$BIN/abacus-controller" --run-dir; }

# read_config CONFIG SETTING...: sets CONFIG_{RUN_DIR,NAME,DRAIN_S,DEVICE,AUTO,MPS,LOAD_S} and CONFIG_{GPUS,SERVICES,
# MODELS}, the latter as names of the store's. DEVICE is cpu, cuda or fake; AUTO is 1 when "auto" was resolved to it.
# Needs the build: the controller reads the file, and "auto" means a GPU only where the CUDA runtime was built. Returns
# the controller's exit code when it does not accept the file, after its message; models may be missing or outdated.
read_config() {
  local config=$1 json line setting arguments
  shift
  [[ -f $config ]] || die "there is no configuration $config"
  arguments=(--config "$config" --check --json --skip-models)
  for setting in "$@"; do arguments+=(--set "$setting"); done
  json=$("$BIN/abacus-controller" "${arguments[@]}") || return
  CONFIG_AUTO=0 CONFIG_GPUS=() CONFIG_SERVICES=() CONFIG_MODELS=()
  while IFS= read -r line; do
    case $line in
      run_dir=*) CONFIG_RUN_DIR=${line#*=} ;;
      name=*) CONFIG_NAME=${line#*=} ;;
      drain_s=*) CONFIG_DRAIN_S=${line#*=} ;;
      device=*) CONFIG_DEVICE=${line#*=} ;;
      mps=*) CONFIG_MPS=${line#*=} ;;
      load_s=*) CONFIG_LOAD_S=${line#*=} ;;
      gpu=*) CONFIG_GPUS+=("${line#*=}") ;;
      service=*) CONFIG_SERVICES+=("${line#*=}") ;;
      model=*) CONFIG_MODELS+=("${line#*=}") ;;
    esac
  done < <("$PYTHON" -I - "$json" "$ABACUS_ROOT/models/store" <<'END'
import json, pathlib, sys
config, store = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
server, worker = config["server"], config["worker"]
print("run_dir=" + config["run_dir"])
print("name=" + server["name"])
print("drain_s=%d" % (server["drain_timeout_ms"] // 1000))
print("device=" + worker["device"])
print("mps=" + str(worker["mps"]).lower())
print("load_s=%d" % worker["load_timeout_s"])
for gpu in worker["gpu"]:
    print("gpu=" + gpu)
for service in config["service"]:
    print("service=" + service["name"])
    model = pathlib.Path(service["model"]).resolve()
    if model.parent == store and model.suffix == ".toml":
        print("model=" + model.stem)
END
  )
  if [[ $CONFIG_DEVICE == auto ]]; then
    CONFIG_AUTO=1
    if [[ -e $BIN/libabacus_cuda_runtime.so ]] && has_gpu; then CONFIG_DEVICE=cuda; else CONFIG_DEVICE=cpu; fi
  fi
}

# What the configured device needs: exports those models that are missing, or builds the fake workers. After read_config.
ensure_device_needs() {
  # The exporter knows a CPU and a CUDA form; other devices need no model files.
  if [[ $CONFIG_DEVICE == cpu || $CONFIG_DEVICE == cuda ]]; then
    ((${#CONFIG_MODELS[@]} == 0)) || ensure_models "$CONFIG_DEVICE" "${CONFIG_MODELS[@]}"
  elif [[ $CONFIG_DEVICE == fake ]]; then
    ensure_build abacus-fake-worker
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

# use_gpus FOLDER: makes the configured GPUs ready, with MPS where the configuration wants it, for the program that will
# run on them. Nothing to do on other devices. After read_config.
use_gpus() {
  local lane uuid uuids=() folders=() folder
  export CUDA_DEVICE_ORDER=PCI_BUS_ID # nvidia-smi's order, which `gpu` counts in
  [[ $CONFIG_DEVICE == cuda && $CONFIG_MPS == true ]] || return 0
  command -v nvidia-cuda-mps-control >/dev/null ||
    die "nvidia-cuda-mps-control is missing (it comes with the NVIDIA driver); without it use --set worker.mps=false"
  if [[ -n ${CUDA_MPS_PIPE_DIRECTORY:-} ]]; then
    if ((${#CONFIG_GPUS[@]} > 1)); then
      warn "CUDA_MPS_PIPE_DIRECTORY is not used: with several GPUs each gets an MPS daemon of its own"
    elif mps_answers "$CUDA_MPS_PIPE_DIRECTORY"; then
      say "using the CUDA MPS daemon of $CUDA_MPS_PIPE_DIRECTORY"
      stop_mps "$1"  # one that a controller left behind would be taken for this one's
      return
    fi
  fi
  # GPUs by their UUIDs: CUDA numbers devices differently from nvidia-smi.
  for lane in "${!CONFIG_GPUS[@]}"; do
    uuid=$(uuid_of "${CONFIG_GPUS[lane]}") || die "there is no GPU ${CONFIG_GPUS[lane]}"
    [[ " ${uuids[*]} " != *" $uuid "* ]] || die "worker.gpu names the GPU $uuid twice"
    uuids+=("$uuid")
    folders+=("$1/mps-$lane")
  done
  ((${#folders[@]} > 1)) || folders=("$1/mps")
  # Left behind by a controller with other GPUs that was not stopped in the usual way.
  for folder in "$1"/mps "$1"/mps-*; do
    [[ " ${folders[*]} " == *" $folder "* ]] || end_mps "$folder"
  done
  # The program finds those that are ours by itself, and knows that each shows its clients one GPU, as the first.
  for lane in "${!folders[@]}"; do
    if ! start_mps "${folders[lane]}" "${uuids[lane]}" "${CONFIG_GPUS[lane]}"; then
      stop_mps "$1"
      die "the CUDA MPS daemon does not start: $(tail -n 3 "${folders[lane]}/start.log")"
    fi
  done
}

uuid_of() { nvidia-smi -i "$1" --query-gpu=uuid --format=csv,noheader 2>/dev/null; }

# start_mps FOLDER UUID GPU: starts a daemon for this GPU in FOLDER, unless one of ours is there. False when it does not
# start. Compute mode, clocks and partitions stay as they are.
start_mps() {
  local folder=$1 uuid=$2
  local pipe=$folder/pipe log=$folder/log
  # The daemon binds sockets in the folder; the system limits a socket's path to 107 bytes.
  ((${#pipe} <= 80)) || die "the path $pipe is too long for CUDA MPS: set ABACUS_RUN_DIR to a shorter one"
  [[ ! -e $folder/owned || $(<"$folder/owned") == "$uuid" ]] || end_mps "$folder"
  mkdir -p "$pipe" "$log"
  printf '%s' "$uuid" >"$folder/owned"  # before it runs: an interruption must not leave it behind
  mps_answers "$pipe" && return
  say "starting the CUDA MPS daemon for GPU $3"
  CUDA_VISIBLE_DEVICES=$uuid CUDA_MPS_PIPE_DIRECTORY=$pipe CUDA_MPS_LOG_DIRECTORY=$log \
    nvidia-cuda-mps-control -d >"$folder/start.log" 2>&1
}

# mps_answers PIPE_DIRECTORY: whether a daemon does.
mps_answers() {
  [[ -S $1/control || -p $1/control ]] &&
    CUDA_MPS_PIPE_DIRECTORY=$1 timeout 10 nvidia-cuda-mps-control <<<get_server_list >/dev/null 2>&1
}

# stop_mps FOLDER: ends all daemons that use_gpus started there.
stop_mps() {
  local folder
  for folder in "$1"/mps "$1"/mps-*; do end_mps "$folder"; done
}

# end_mps MPS_FOLDER: ends its daemon, if it is one of ours.
end_mps() {
  local folder=$1 pid=''
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
  ((${#STARTED_DOWN[@]} == 0)) || exit 3
}

# start_controller CONFIG FOREGROUND SETTING...: returns once every service serves or is down, and not all are down; sets
# STARTED_NAME, STARTED_FOLDER, STARTED_ENDPOINT and STARTED_DOWN, the services that are down. Leaves nothing running when
# it fails.
start_controller() {
  local config=$1 foreground=$2 setting arguments pid
  shift 2
  if ! read_config "$config" "$@"; then
    STARTED_NAME=$(basename "$config" .toml)
    for setting in "$@"; do [[ $setting != server.name=* ]] || STARTED_NAME=${setting#*=}; done
    die "'$STARTED_NAME' did not start: its configuration is wrong"
  fi
  # Said explicitly, so that this script and the controller cannot come to different conclusions about "auto".
  ((CONFIG_AUTO == 0)) || set -- "$@" "worker.device=$CONFIG_DEVICE"
  ensure_device_needs
  STARTED_NAME=$CONFIG_NAME
  STARTED_FOLDER=$CONFIG_RUN_DIR/$CONFIG_NAME
  mkdir -p "$STARTED_FOLDER"
  pid=$(running_pid "$STARTED_FOLDER")
  [[ -z $pid ]] ||
    die "a controller named '$CONFIG_NAME' is running (pid $pid): stop it (./mps.sh stop --name $CONFIG_NAME) or start" \
      "this one with --name"
  arguments=(--config "$config")
  for setting in "$@"; do arguments+=(--set "$setting"); done

  trap 'abort_start "interrupted"' INT TERM
  use_gpus "$STARTED_FOLDER"
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

# Prints "endpoint ENDPOINT" and a line "service NAME STATE DEVICE ERROR" for each service of a running controller; STATE
# is "refused" for one that is down for good.
controller_state() {
  "$BIN/abacus-status" --name "$1" --json 2>/dev/null | "$PYTHON" -I -c '
import json, sys
try:
    status = json.load(sys.stdin)
except ValueError:
    sys.exit(0)
print("endpoint", status["endpoint"])
if status["policy"] == "abacus":
    print("predictor", "; ".join(dict.fromkeys(lane["predictor"]["description"] for lane in status["lanes"])))
for service in status["services"]:
    state = "refused" if service["refused"] else service["state"]
    print("service", service["service"] or "?", state, service["device"] or "-", service["error"].replace("\n", " "))
'
}

# Waits until every service serves or is down, and says what each is doing whenever that changes. Fails when all are down.
wait_serving() {
  local pid=$1 patience=$((CONFIG_LOAD_S + 30)) deadline kind name state device error serving total predictor='' reasons
  declare -A shown=() failed_since=()
  deadline=$((SECONDS + patience))
  say "starting '$STARTED_NAME' on ${CONFIG_DEVICE} (log: $STARTED_FOLDER/controller.log)"
  while :; do
    if ! kill -0 "$pid" 2>/dev/null; then
      local status=0
      wait "$pid" || status=$?
      abort_start "the controller ended with status $status"
    fi
    serving=0 total=0 STARTED_DOWN=() reasons=()
    while read -r kind name state device error; do
      if [[ $kind == endpoint ]]; then
        STARTED_ENDPOINT=$name
        continue
      elif [[ $kind == predictor ]]; then
        predictor="$name $state $device $error"
        continue
      fi
      total=$((total + 1))
      if [[ ${shown[$name]:-} != "$state" && $name != "?" ]]; then
        shown[$name]=$state
        deadline=$((SECONDS + patience))  # something goes on
        say "  $name: $state$([[ $device == - ]] || printf ' (%s)' "$device")"
      fi
      # A crashed worker is restarted; one that stays down for 5 seconds will not come by itself soon.
      case $state in
        serving)
          serving=$((serving + 1))
          unset "failed_since[$name]"
          ;;
        failed | exited) failed_since[$name]=${failed_since[$name]:-$SECONDS} ;;
        *) unset "failed_since[$name]" ;;
      esac
      if [[ $state == refused ]] || ((SECONDS - ${failed_since[$name]:-$SECONDS} >= 5)); then
        STARTED_DOWN+=("$name")
        [[ $error == "$name "* ]] || error="$name: ${error:-$state}"
        reasons+=("$error")
      fi
    done < <(controller_state "$STARTED_NAME")
    if ((total > 0 && serving + ${#STARTED_DOWN[@]} == total)); then
      ((serving > 0)) || abort_start "$(printf '%s\n' "${reasons[@]}")"
      for error in ${reasons[@]+"${reasons[@]}"}; do warn "$error"; done
      ((serving == total)) || warn "${#STARTED_DOWN[@]} of $total services are down: ${STARTED_DOWN[*]}; the others serve"
      say "'$STARTED_NAME' serves at $STARTED_ENDPOINT"
      [[ -z $predictor ]] || say "predictor: $predictor"
      return
    fi
    ((SECONDS < deadline)) ||
      abort_start "$serving of $total services serve, and nothing happened for $(duration "$patience")"
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
  if [[ ! -x $BIN/abacus-controller ]]; then
    say "no controller '$name' is running (nothing is built yet)"
    return
  fi
  folder=$(run_dir)/$name
  if [[ -z $(running_pid "$folder") ]]; then
    stop_controller "$folder" quiet
    say "no controller '$name' is running"
    return
  fi
  stop_controller "$folder" loud
  say "stopped '$name'"
}

# stop_controller FOLDER quiet|loud: drains and ends the controller of this folder, then its MPS daemons. The wait is the
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
