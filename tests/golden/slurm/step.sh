#!/bin/bash
record=$1; shift
trap '' USR1
"$@" & child=$!
trap 'signalled=1; kill -USR1 "$child" 2>/dev/null' USR1
# shellcheck disable=SC2317 # the trap calls it
follow() {
    sleep 10
    for other in "${record}"_*; do
        read -r code _ <"$other"
        [[ $code == [1-9]* && $code != 75 ]] && kill -KILL "$child"
    done
} 2>/dev/null
trap 'signalled=1; told=1; kill -TERM "$child" 2>/dev/null; follow &' TERM
code=0 told=
while signalled=; wait "$child" || code=$?; [[ -n $signalled ]]; do code=0; done
[[ -n $told && $code == 137 ]] && code=143
printf '%s %s\n' "$code" "$(date +%s%N)" >"${record}_$SLURM_PROCID" &&
    [[ $code == 75 ]] && code=0
exit "$code"
