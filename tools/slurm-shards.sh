#!/usr/bin/env bash
# The gate as a Slurm array: every task runs one shard, a job that depends on them joins the shards.
set -euo pipefail

usage() {
    cat <<'END'
Usage, from the root of a checkout that all nodes see:

    make install                         # once: the tasks must not install at the same time
    export REPORTS=$PWD/reports DEVICE=cuda
    job=$(sbatch --parsable --array=1-4 --gpus=1 --cpus-per-task=8 tools/slurm-shards.sh)
    sbatch --dependency=afterany:$job tools/slurm-shards.sh merge $job

--array=1-N makes N shards: whole models, so N is at most their number. The second job runs when all tasks have
ended, however they ended. It fails unless all is green (a missing shard fails it too), prints the report to its log and
leaves summary.md and accuracy.json in $REPORTS/$job, where the shards lie as well: an array is a run, and has a folder
of its own. To run task 3 of 4 alone again: SHARDS=4 MXCHECK_RUN=$job sbatch --array=3 ..., then merge $job.

Read from the environment, which sbatch hands on: REPORTS (a folder that all nodes see), and what `make nightly`
reads: DEVICE, MODELS, STEPS, WORKERS, PYTEST_ARGS, HANG, VENV; HF_HOME for models of the hub, which `make fetch-models
MODELS=...` fetches beforehand.
END
}

fail() {
    echo "slurm-shards.sh: $1" >&2
    echo >&2
    usage >&2
    exit 2
}

# Slurm runs a copy of this file from its spool: the checkout is where sbatch was typed.
cd "${SLURM_SUBMIT_DIR:-.}"
[ -f tools/slurm-shards.sh ] || fail "$PWD is no checkout of mxcheck; type sbatch in its root"
[ -n "${REPORTS:-}" ] || fail "REPORTS is not set: name a folder that all nodes see"

case "${1:-shard}" in
shard)
    index=${SLURM_ARRAY_TASK_ID:-}
    count=${SHARDS:-${SLURM_ARRAY_TASK_COUNT:-}}
    [ -n "$index" ] && [ -n "$count" ] || fail "this is no task of an array; submit with --array=1-N"
    export MXCHECK_RUN=${MXCHECK_RUN:-${SLURM_ARRAY_JOB_ID:-}}
    [ -n "$MXCHECK_RUN" ] || fail "Slurm gave the array no SLURM_ARRAY_JOB_ID: set MXCHECK_RUN to a name for the run"
    # A folder a task: each writes accuracy.json as well.
    report=$REPORTS/$MXCHECK_RUN/shard-$index
    # Of this run, where the task runs again: if it fails now, that one must be missing.
    rm -f "$report/shard-$index-of-$count.json"
    [ "$index" -ge 1 ] && [ "$index" -le "$count" ] ||
        fail "task $index of $count: submit with --array=1-N, or set SHARDS=N where some tasks run again"
    make --question install || fail "mxcheck is not installed in this checkout, or not as it is now: make install"
    exec make nightly SHARD="$index/$count" REPORT="$report"
    ;;
merge)
    run=${2:-${MXCHECK_RUN:-}}
    [ -n "$run" ] || fail "merge of which run? name the array's job: merge JOB"
    folder=$REPORTS/$run
    rm -f "$folder/summary.md" "$folder/accuracy.json" # the merge appends, and the verdict is the last one's
    exec make merge REPORTS="$folder" SUMMARY="$folder/summary.md" JSON="$folder/accuracy.json"
    ;;
*)
    fail "unknown word '$1'"
    ;;
esac
