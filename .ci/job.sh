# Runs a command that a time limit, or a signal to .ci/run, stops together with its children.
# shellcheck shell=bash

job_group='' job_timer='' job_stopped=0

# job SECONDS COMMAND...: returns the command's exit status. job_stopped is 1 if the time was up.
#
# Ctrl-C takes effect at once: bash runs a trap while it waits for a background job, but only
# after a foreground command has ended. `set -m` puts the job into a process group of its own, and
# without it the job would ignore SIGINT.
job() {
    local end=$((SECONDS + $1)) status
    shift
    rm -f "$scratch/time-up"
    set -m
    (
        set -e
        "$@"
    ) </dev/null &
    job_group=$!
    (
        # If .ci/run itself is killed, the job ends too.
        while ((SECONDS < end)) && kill -0 $$; do sleep 1; done
        : >"$scratch/time-up"
        kill -TERM -- "-$job_group"
        sleep 10
        kill -KILL -- "-$job_group"
    ) >/dev/null 2>&1 &
    job_timer=$!
    set +m
    # Not `wait -n` for both: in bash 5.2 it misses a job that ended before the call.
    # The redirection is for bash's line about a job that a signal ended.
    wait "$job_group" 2>/dev/null
    status=$?
    job_stopped=0
    if [[ -e $scratch/time-up ]]; then
        job_stopped=1
        stop_job
    fi
    stop_timer
    job_group=''
    return "$status"
}

stop_timer() {
    [[ -n $job_timer ]] || return 0
    # SIGKILL: a subshell that has just begun would lose a SIGTERM to the trap of .ci/run.
    { kill -KILL -- "-$job_timer" && wait "$job_timer"; } 2>/dev/null
    job_timer=''
}

# Ends the running job: SIGTERM, and SIGKILL after 10 s.
stop_job() {
    local attempt
    stop_timer
    [[ -n $job_group ]] || return 0
    kill -TERM -- "-$job_group" 2>/dev/null
    for ((attempt = 0; attempt < 100; attempt += 1)); do
        kill -0 -- "-$job_group" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$job_group" 2>/dev/null
    wait "$job_group" 2>/dev/null
    job_group=''
}
