#!/usr/bin/env bash
# The gate as a Slurm array: every task runs one shard, a job that depends on them joins the shards.
set -euo pipefail

usage() {
    cat <<'END'
Usage, from the root of a checkout that all nodes see:

    make install                         # once: the tasks must not install at the same time
    export REPORTS=$PWD/reports/$(date +%F)
    job=$(sbatch --parsable --array=1-4 --gpus=1 --cpus-per-task=8 tools/slurm-shards.sh)
    sbatch --dependency=afterany:$job tools/slurm-shards.sh merge

--array=1-N makes N shards: whole models, so N is at most their number. The second job runs when all tasks have
ended, however they ended. It fails unless all is green (a missing shard fails it too), prints the report to its log and
leaves summary.md and accuracy.json in $REPORTS. To run task 3 of 4 alone again: SHARDS=4 sbatch --array=3 ...

Read from the environment, which sbatch hands on: REPORTS (a folder that all nodes see), and what `make nightly`
reads: MODELS, STEPS, WORKERS, PYTEST_ARGS, HANG, VENV; HF_HOME for models of the hub, which `make models
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
    [ "$index" -ge 1 ] && [ "$index" -le "$count" ] ||
        fail "task $index of $count: submit with --array=1-N, or set SHARDS=N where some tasks run again"
    make --question install || fail "mxcheck is not installed in this checkout, or not as it is now: make install"
    # A folder a task: each writes accuracy.json as well.
    exec make nightly SHARD="$index/$count" REPORT="$REPORTS/shard-$index"
    ;;
merge)
    exec make merge REPORTS="$REPORTS" SUMMARY="$REPORTS/summary.md" JSON="$REPORTS/accuracy.json"
    ;;
*)
    fail "unknown word '$1'"
    ;;
esac
