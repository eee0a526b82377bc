#!/bin/bash
record=$1; shift
child='' told='' follower=''
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM
trap '' USR1
"$@" & child=$!
trap 'kill -USR1 "$child" 2>/dev/null' USR1
follow() {
    sleep 10
    for other in "${record}"_*; do
        read -r code _ <"$other"
        [[ $code == [1-9]* && $code != 75 ]] && kill -KILL "$child"
    done
}
exec {idle}<> <(:)
while kill -0 "$child" 2>/dev/null; do
    if [[ -n $told && -z $follower ]]; then
        kill -TERM "$child" 2>/dev/null
        follow &>/dev/null & follower=$!
    fi
    read -rt 0.2 -u "$idle"
done
wait "$child"; code=$?
[[ -n $told && $code == 137 ]] && code=143
printf '%s %s\n' "$code" "$(date +%s%N)" >"${record}_$SLURM_PROCID" &&
    [[ $code == 75 ]] && code=0
exit "$code"
