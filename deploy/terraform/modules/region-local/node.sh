#!/bin/sh
# Starts and stops one node for Terraform. `PREFIX.process` records it as `STATE GENERATION PID START`: STATE is `running`
# or `stopped`, START the kernel's start time of that process, since a PID alone may be somebody else's by now.
#
#   node.sh start PREFIX BINARY ADDRESS GENERATION      with the configuration in $CONFIG, and $NEARFIELD, $CERTS,
#                                                       $IDENTITY and $TRUST to make its certificate
#   node.sh stop PREFIX
#   node.sh sweep RUN_DIR REGION                        stops what is recorded of a region's nodes there, and still runs;
#                                                       of all regions, if none is named
set -eu

# Deadlines, in tenths of a second: "ready", until the node answers /healthz; "drain", until it ends by itself.
READY=300
DRAIN=600

# The process's start time, empty if there is no such process or only its remains.
started() {
    sed 's/.*) //' "/proc/$1/stat" 2> /dev/null | awk '$1 != "Z" { print $20 }'
}

# In one step: a plan may be reading.
record() {
    echo "$@" > "$prefix.process.new"
    mv "$prefix.process.new" "$prefix.process"
}

# A certificate by the folder's own authority, made with the first node: nodes start at the same time, so one waits
# for the other. An authority without its key is somebody else's, and so are the certificates.
certificate() {
    mkdir -p "$CERTS"
    if [ ! -f "$CERTS/ca.pem" ] || [ -f "$CERTS/ca.key" ]; then
        flock "$CERTS" "$NEARFIELD" certs --dir "$CERTS" --trust-domain "$TRUST" "$IDENTITY"
    fi
}

start() {
    # Terraform may have lost sight of the process that the record names: an interrupted apply, a lost state.
    stop "$1"
    prefix=$1 binary=$2 address=$3 generation=$4
    mkdir -p "$(dirname "$prefix")"
    if curl -s -m 2 -o /dev/null "http://$address/healthz"; then
        echo "another program answers at $address already" >&2
        exit 1
    fi
    certificate
    printf '%s\n' "$CONFIG" > "$prefix.toml"
    unset CONFIG
    setsid "$binary" --config "$prefix.toml" > "$prefix.log" 2>&1 < /dev/null &
    pid=$!
    # Whoever interrupts this leaves nothing that nobody knows of.
    trap 'given_up; exit 130' INT TERM HUP
    begun=$(started $pid)
    record running "$generation" $pid "${begun:-0}"
    tries=0
    until curl -sf -m 2 -o /dev/null "http://$address/healthz" && [ -n "$(started $pid)" ]; do
        tries=$((tries + 1))
        if [ -z "$(started $pid)" ] || [ $tries -ge $READY ]; then
            echo "$binary did not come up; the end of $prefix.log:" >&2
            tail -n 20 "$prefix.log" >&2
            given_up
            exit 1
        fi
        sleep 0.1
    done
    trap - INT TERM HUP
}

given_up() {
    kill -KILL $pid 2> /dev/null || true
    record stopped "$generation" $pid "${begun:-0}"
}

stop() {
    prefix=$1
    [ -f "$prefix.process" ] || return 0
    read -r state generation pid begun < "$prefix.process"
    # If it died by itself, the plan that replaces it already counts on one generation more.
    if [ "$state" = running ] && [ "$(started "$pid")" != "$begun" ]; then
        generation=$((generation + 1))
    fi
    # Before the process ends: Terraform may look in between, and must not take it for a crash.
    record stopped "$generation" "$pid" "$begun"
    [ "$(started "$pid")" = "$begun" ] || return 0
    kill -TERM "$pid"
    tries=0
    while [ "$(started "$pid")" = "$begun" ]; do
        tries=$((tries + 1))
        [ $tries -lt $DRAIN ] || kill -KILL "$pid" 2> /dev/null || true
        sleep 0.1
    done
}

sweep() {
    dir=$1 region=${2:-}
    for found in "$dir"/*.process; do
        name=$(basename "$found" .process)
        of=${name#*-}
        # A region's name may be the beginning of another's.
        if [ -f "$found" ] && { [ -z "$region" ] || [ "${of%-*}" = "$region" ]; }; then
            stop "${found%.process}"
        fi
    done
}

command=$1
shift
case $command in
    start | stop | sweep) "$command" "$@" ;;
    *) echo "node.sh: no such command: $command" >&2; exit 2 ;;
esac
