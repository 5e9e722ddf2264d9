#!/bin/sh
# The agent itself on a disk whose power is cut.
#
#   agent.sh start FOLDER             starts it, and waits until it is ready
#   agent.sh work FOLDER COUNT MARK…  works with it, as `replay tell` does, until COUNT containers were declared (0: until it is killed)
#   agent.sh verify FOLDER            looks for what POWERCUT_MUST has of it, as `replay told` does
#   agent.sh look FOLDER              starts it, verifies, and stops it
#
# No image is there, so no container runs: what is looked for is the ledger and the records.
set -u
action=$1
folder=$2
stower=${0%/*}/stower
replay=${0%/*}/replay
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
    "$replay" tell $STOWER_SOCKET "$@"
}

verify() {
    "$replay" told $STOWER_SOCKET
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
