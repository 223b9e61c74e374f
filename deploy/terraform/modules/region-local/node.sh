#!/bin/sh
# Starts and stops one node for Terraform. `PREFIX.process` records it as `STATE GENERATION PID START`: STATE is `running`
# or `stopped`, START the kernel's start time of that process, since a PID alone may be somebody else's by now.
#
#   node.sh start PREFIX BINARY ADDRESS GENERATION      with the configuration in $CONFIG, and $BENCH, $CERTS,
#                                                       $IDENTITY and $TRUST to make its certificate
#   node.sh stop PREFIX
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
        flock "$CERTS" "$BENCH" certs --dir "$CERTS" --trust-domain "$TRUST" "$IDENTITY"
    fi
}

start() {
    prefix=$1 binary=$2 address=$3 generation=$4
    mkdir -p "$(dirname "$prefix")"
    certificate
    printf '%s\n' "$CONFIG" > "$prefix.toml"
    unset CONFIG
    setsid "$binary" --config "$prefix.toml" > "$prefix.log" 2>&1 < /dev/null &
    pid=$!
    begun=$(started $pid)
    record running "$generation" $pid "${begun:-0}"
    tries=0
    until curl -sf -m 2 -o /dev/null "http://$address/healthz"; do
        tries=$((tries + 1))
        if [ -z "$(started $pid)" ] || [ $tries -ge $READY ]; then
            echo "$binary did not come up; the end of $prefix.log:" >&2
            tail -n 20 "$prefix.log" >&2
            kill -KILL $pid 2> /dev/null || true
            exit 1
        fi
        sleep 0.1
    done
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

command=$1
shift
case $command in
    start | stop) "$command" "$@" ;;
    *) echo "node.sh: no such command: $command" >&2; exit 2 ;;
esac
