#!/bin/bash
# Checks and measures the trainer on this machine's GPU, in six parts; see README.md.
#
#   check.sh [--rehearse] [--parts 1,3] [--out DIR] [--csv FILE --images DIR] [--python PYTHON]
#
# Each part has a time limit of its own and writes DIR/PART.json after each measurement.
# --rehearse runs everything small, and on the CPU.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3} out=accelerator parts=1,2,3,4,5,6 rehearse=() data=()
while [ $# -gt 0 ]; do
  case $1 in
    --rehearse) rehearse=(--rehearse); shift ;;
    --parts) parts=${2:?--parts needs numbers such as 1,3}; shift 2 ;;
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    --python) python=${2:?--python needs a program}; shift 2 ;;
    --csv | --images) data+=("$1" "${2:?$1 needs a path}"); shift 2 ;;
    *) echo "unknown option $1; see the first lines of $0" >&2; exit 2 ;;
  esac
done
names=(hardware correctness speed profile kernels input)
limits=(60 120 360 60 180 120)
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
for part in ${parts//,/ }; do
  case $part in [1-6]) ;; *) echo "--parts $part: choose from 1 to 6" >&2; exit 2 ;; esac
done

export PYTHONPATH="$root:$here:$root/scripts/peers:$root/scripts/weights"
export PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2 TOKENIZERS_PARALLELISM=false
export MLCLS_JAX_CACHE=${MLCLS_JAX_CACHE:-$out/cache}
# Several processes share the GPU, so none takes its memory in advance.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
if [ ${#rehearse[@]} -gt 0 ]; then
  export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=
fi
if [ "${JAX_PLATFORMS:-}" = cpu ]; then
  limits=(600 1200 600 600 1800 1200) # two cores, maybe busy ones
fi
"$python" "$here/unpack_wheels.py" "$here/wheels" "$out/packages" || exit 1
export PYTHONPATH="$PYTHONPATH:$out/packages"

failed=0
for part in ${parts//,/ }; do
  name=${names[part - 1]} limit=${limits[part - 1]}
  echo "== part $part, $name: at most $limit s"
  # A part ends by itself; timeout is for one that hangs. Its results so far are stored.
  timeout --kill-after=10 $((limit + 20)) "$python" "$here/part_$name.py" --out "$out" \
    --limit "$limit" ${rehearse[@]+"${rehearse[@]}"} ${data[@]+"${data[@]}"}
  code=$?
  [ $code -eq 0 ] || { echo "part $part, $name: ended with code $code" >&2; failed=1; }
done
"$python" "$here/report.py" --results "$out" --page "$out/accelerators.md"
exit $failed
