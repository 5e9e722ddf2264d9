#!/bin/sh
# The agent itself on a disk whose power is cut.
#
#   agent.sh start FOLDER             starts it, and waits until it is ready
#   agent.sh work FOLDER COUNT MARK…  declares so many containers (0: until it is killed) and holds them; MARK is a command
#   agent.sh verify FOLDER            looks for what POWERCUT_MUST has of it: container:NAME=UID, hold:NAME
#   agent.sh look FOLDER              starts it, verifies, and stops it
#
# No image is there, so no container runs: what is looked for is the ledger and the records.
set -u
action=$1
folder=$2
stower=${0%/*}/stower
export STOWER_SOCKET=/run/powercut/socket

start() {
    # What a reboot voids.
    rm -rf /run/powercut
    mkdir -p "$folder/manifests" /run/powercut
    $stower agent --manifests "$folder/manifests" --data-root "$folder/data" --run-root /run/powercut \
        --socket $STOWER_SOCKET --config /dev/null --storage-driver native >>/var/log/agent.log 2>&1 </dev/null &
    tries=0
    until $stower get containers >/dev/null 2>&1; do
        tries=$((tries + 1))
        if ! kill -0 $! 2>/dev/null || [ $tries = 100 ]; then
            echo "WRONG: the agent does not start"
            tail -n 20 /var/log/agent.log
            return 1
        fi
        sleep 0.1
    done
}

work() {
    count=$1
    shift
    n=$($stower get containers -o name | wc -l)
    end=$((n + count))
    while [ "$count" = 0 ] || [ "$n" -lt "$end" ]; do
        n=$((n + 1))
        object="{apiVersion: stower.dev/v1alpha1, kind: Container, metadata: {name: c$n},
            spec: {image: 'localhost/none:1', imagePullPolicy: Never, restartPolicy: Never}}"
        uid=$(echo "$object" | $stower apply -f - -o json | sed -n 's/^ *"uid": "\(.*\)".*/\1/p' | head -n 1)
        "$@" "+container:c$n=$uid" || exit 1
        $stower stop "c$n" >/dev/null && "$@" "+hold:c$n" || exit 1
    done
}

verify() {
    uids=$($stower get containers -o json) && table=$($stower get containers --no-headers) || return 1
    held=" $(echo "$table" | sed -n 's/^\([^ ]*\)  *Stopped .*/\1/p' | tr '\n' ' ')"
    wrong=
    for what in $POWERCUT_MUST; do
        case $what in
        container:*) case $uids in *"\"${what#*=}\""*) continue ;; esac ;;
        hold:*) case $held in *" ${what#*:} "*) continue ;; esac ;;
        *) continue ;;
        esac
        echo "WRONG: $what had been promised"
        wrong=1
    done
    [ -z "$wrong" ]
}

stop() {
    pid=$(pidof stower)
    kill $pid
    while kill -0 $pid 2>/dev/null; do sleep 0.1; done
}

shift 2
case $action in
look)
    start && verify
    result=$?
    stop
    exit $result
    ;;
*) "$action" "$@" ;;
esac
