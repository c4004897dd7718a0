# shellcheck shell=bash
# Measuring, training and looking at rounds: profile, train, trace. Sourced by mps.sh.
set -euo pipefail

# --- profile ----------------------------------------------------------------------------------------------------------

profile_command() {
  local config='' out='' smi_gpu='' options=() settings=() arguments setting service pid
  while (($# > 0)); do
    case $1 in
      --out) need_value "$@" && out=$2 && shift ;;
      --out=*) out=${1#*=} ;;
      --nvidia-smi-gpu) need_value "$@" && smi_gpu=$2 && shift ;;
      --nvidia-smi-gpu=*) smi_gpu=${1#*=} ;;
      --set) need_value "$@" && settings+=("$2") && shift ;;
      --set=*) settings+=("${1#*=}") ;;
      --fresh | --minutes=* | --groups=* | --repetitions=* | --seed=*) options+=("$1") ;;
      --minutes | --groups | --repetitions | --seed) need_value "$@" && options+=("$1" "$2") && shift ;;
      -*) usage_error "profile: unknown option '$1'" ;;
      *)
        [[ -z $config ]] || usage_error "profile takes one configuration, not '$config' and '$1'"
        config=$1
        ;;
    esac
    shift
  done
  config=$(find_file "${config:-$ABACUS_ROOT/configs/default.toml}")
  out=$(readlink -m "${out:-$ABACUS_ROOT/profiles/$(basename "$config" .toml).jsonl}")
  setup_all "${PROGRAMS[@]}" abacus-profile
  # A name of its own: it may run beside a controller of the same configuration.
  settings=(server.name=profile ${settings[@]+"${settings[@]}"})
  read_config "$config" "${settings[@]}"
  ((CONFIG_AUTO == 0)) || settings+=("worker.device=$CONFIG_DEVICE")
  if ((${#CONFIG_GPUS[@]} > 1)); then
    # Groups are measured on one GPU, where all models are.
    say "measuring on GPU ${CONFIG_GPUS[0]}, the first of the configuration"
    CONFIG_GPUS=("${CONFIG_GPUS[0]}")
    settings+=("worker.gpu=${CONFIG_GPUS[0]}")
    for service in "${CONFIG_SERVICES[@]}"; do settings+=("service.$service.gpu=${CONFIG_GPUS[0]}"); done
  fi
  ensure_device_needs
  STARTED_FOLDER=$CONFIG_RUN_DIR/$CONFIG_NAME
  mkdir -p "$STARTED_FOLDER"
  pid=$(running_pid "$STARTED_FOLDER")
  [[ -z $pid ]] || die "'$CONFIG_NAME' is running (pid $pid): wait for it, or use --set server.name=OTHER"
  warn_of_running
  arguments=(--config "$config" --out "$out" ${options[@]+"${options[@]}"})
  for setting in "${settings[@]}"; do arguments+=(--set "$setting"); done

  # Whatever happens, a daemon that is started here does not stay.
  trap 'rm -f "$STARTED_FOLDER/controller.pid"; stop_mps "$STARTED_FOLDER"' EXIT
  trap 'exit 130' INT TERM
  use_gpus "$STARTED_FOLDER"
  [[ -z $smi_gpu ]] || arguments+=(--nvidia-smi-gpu "$smi_gpu")
  say "profiling on $CONFIG_DEVICE into $out; Ctrl-C stops, the same command goes on"
  attend "$STARTED_FOLDER/controller.pid" "$BIN/abacus-profile" "${arguments[@]}"
  ((ATTENDED_STATUS != 0)) || say "train on it with: ./mps.sh train $out"
  exit "$ATTENDED_STATUS"
}

# Measurements beside a controller at work are wrong. After read_config.
warn_of_running() {
  local file folder
  for file in "$CONFIG_RUN_DIR"/*/controller.pid; do
    folder=$(dirname "$file")
    [[ -z $(running_pid "$folder") ]] ||
      warn "the controller '$(basename "$folder")' is running; queries to it would disturb the measurement"
  done
}

# --- train ------------------------------------------------------------------------------------------------------------

train_command() {
  local name='' profiles=() profile out='' report='' options=() plot
  while (($# > 0)); do
    case $1 in
      -h | --help)
        setup_all abacus-train
        exec "$BIN/abacus-train" --help
        ;;
      --out) need_value "$@" && out=$2 && shift ;;
      --out=*) out=${1#*=} ;;
      --report) need_value "$@" && report=$2 && shift ;;
      --report=*) report=${1#*=} ;;
      # The others are abacus-train's; all but --fresh have a value.
      --fresh | --*=*) options+=("$1") ;;
      -*) need_value "$@" && options+=("$1" "$2") && shift ;;
      *.toml)
        [[ -z $name ]] || usage_error "train takes one configuration, or profiles"
        name=$(basename "$1" .toml)
        ;;
      *) profiles+=("$(find_file "$1")") ;;
    esac
    shift
  done
  [[ -z $name || ${#profiles[@]} == 0 ]] || usage_error "train takes a configuration or profiles, not both"
  if ((${#profiles[@]} == 0)); then
    name=${name:-default}
    profiles=("$ABACUS_ROOT/profiles/$name.jsonl")
  else
    name=$(basename "${profiles[0]}")
    name=${name%.jsonl}
  fi
  for profile in "${profiles[@]}"; do
    [[ -f $profile ]] || die "there is no profile $profile: ./mps.sh profile [CONFIG] measures one"
  done
  out=$(readlink -m "${out:-$ABACUS_ROOT/profiles/$name.predictor}")
  report=$(readlink -m "${report:-${out%.predictor}.report}")
  setup_all abacus-train
  attend /dev/null "$BIN/abacus-train" "${profiles[@]}" --out "$out" --report "$report" ${options[@]+"${options[@]}"}
  ((ATTENDED_STATUS == 0)) || exit "$ATTENDED_STATUS"
  plot=$report/predictor
  if "$PYTHON" "$ABACUS_ROOT/bench/plot_predictor.py" "$report" --out "$plot"; then
    say "plots: $plot-pairs.png (error by pair of models), $plot-scatter.png (predicted against measured)"
  else
    warn "the plots could not be drawn; the tables are in $report"
  fi
  say "a controller reads its predictor when it starts; for this one: --set scheduler.predictor=$out"
}

# --- trace ------------------------------------------------------------------------------------------------------------

trace_command() {
  local name=default file='' state reader pid folder trace wait_s=10 started=$SECONDS
  while (($# > 0)); do
    case $1 in
      --name) need_value "$@" && name=$2 && shift ;;
      --name=*) name=${1#*=} ;;
      -*) usage_error "trace: unknown option '$1'" ;;
      *)
        [[ -z $file ]] || usage_error "trace writes one file, not '$file' and '$1'"
        file=$1
        ;;
    esac
    shift
  done
  [[ -n $file ]] || usage_error "trace needs the name of the file to write"
  [[ $name =~ ^[A-Za-z0-9_-]+$ ]] || usage_error "trace: '$name' is not the name of a controller"
  file=$(readlink -m "$file")
  [[ ! -d $file ]] || die "cannot write $file: it is a folder"
  [[ -d ${file%/*}/ && -w ${file%/*}/ ]] || die "cannot write $file: its folder is missing or not writable"
  state=$(status_command --name "$name" --json) || exit $?
  reader=$(find_python)
  pid=$("$reader" -I -c 'import json, sys; print(json.load(sys.stdin)["pid"])' <<<"$state")
  folder=$(run_dir)/$name
  trace=$folder/trace.json
  rm -f "$trace"
  kill -USR1 "$pid" || die "cannot ask the controller '$name' (pid $pid)"
  while [[ ! -e $trace ]]; do
    [[ -n $(start_time_of "$pid") ]] || die "the controller '$name' has ended meanwhile"
    # A long trace takes its time; the file that grows shows that it comes.
    [[ ! -e $trace.new ]] || wait_s=120
    ((SECONDS - started <= wait_s)) ||
      die "no trace from '$name' (pid $pid) within $wait_s s; $folder/controller.log may say why"
    sleep 0.1
  done
  if [[ $(head -n 1 "$trace") == *'"trace_events":0}'* ]]; then
    rm -f "$trace"
    die "'$name' records no trace: its [scheduler] trace_events is 0"
  fi
  mv -f "$trace" "$file" || die "cannot write $file"
  say "wrote $file ($(stat -c %s "$file" | numfmt --to=iec-i --suffix=B)); open it at https://ui.perfetto.dev, which reads" \
    "it inside the browser"
}
