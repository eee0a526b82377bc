#!/bin/bash
record=$1; shift
trap '' USR1
"$@" & child=$!
trap 'signalled=1; kill -USR1 "$child" 2>/dev/null' USR1
trap 'signalled=1; kill -TERM "$child" 2>/dev/null' TERM
code=0
while signalled=; wait "$child" || code=$?; [[ -n $signalled ]]; do code=0; done
printf '%s %s\n' "$code" "$(date +%s%N)" >"${record}_$SLURM_PROCID" &&
    [[ $code == 75 ]] && code=0
exit "$code"
