#!/bin/sh
# What `edgeopt farm` does on a board. It is sent as text with every connection: sh -c TEXT edgeopt-farm ACTION ARGUMENT…
#
#   hold WHO                          lock the board for as long as standard input is open; prints: held PID
#   probe DIGEST EDGEOPT…             edgeopt's version, then: there | missing
#   receive DIGEST                    unpack a tar archive from standard input as the bundle DIGEST
#   drop DIGEST                       remove it
#   step PID SECONDS LINKS COMMAND…   run a command in a folder of its own, while process PID holds the board
#
# Bundles lie under the digest of their manifest and stay until 30 days after their last use. 90 to 95 are exit codes of
# this text; all others are the command's.
set -u
umask 077
unset LC_ALL
export LC_MESSAGES=C # a full disk is known by what tar says of it
farm=${EDGEOPT_FARM:-${XDG_CACHE_HOME:-$HOME/.cache}/edgeopt/farm}
BUSY=90 NO_EDGEOPT=91 NO_DISK=92 TOO_LONG=93 LOST=94 NO_FLOCK=95

own() { # print a command's first word with ~ as this board's home
    case $1 in
        \~/*) printf '%s' "$HOME/${1#??}" ;;
        *) printf '%s' "$1" ;;
    esac
}

hold() {
    command -v flock >/dev/null || exit $NO_FLOCK
    mkdir -p "$farm/bundles" || exit $NO_DISK
    exec 9>>"$farm/lock" || exit $NO_DISK
    if ! flock -n 9; then
        cat "$farm/holder"
        exit $BUSY
    fi
    printf '%s\n' "$1" >"$farm/holder" || exit $NO_DISK
    rm -rf "$farm"/run.* "$farm"/new.* # of connections that were cut
    find "$farm/bundles" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +
    echo "held $$"
    # Only a side that writes notices that the other one is gone.
    (
        exec 9>&-
        while sleep 5; do echo .; done
    ) &
    beat=$!
    cat >/dev/null
    kill $beat
}

probe() {
    digest=$1
    shift
    first=$(own "$1")
    shift
    command -v "$first" >/dev/null || exit $NO_EDGEOPT
    "$first" "$@" --version || exit $NO_EDGEOPT
    if [ -d "$farm/bundles/$digest" ]; then
        touch "$farm/bundles/$digest"
        echo there
    else
        echo missing
    fi
}

receive() {
    new=$(mktemp -d "$farm/new.XXXXXX") || exit $NO_DISK
    trap 'rm -rf "$new"' EXIT
    tar -C "$new" -xf - || exit $NO_DISK
    mv "$new" "$farm/bundles/$1" || exit $NO_DISK
}

step() {
    holder=$1 seconds=$2 links=$3
    shift 3
    first=$(own "$1")
    shift
    scratch=$(mktemp -d "$farm/run.XXXXXX") || exit $NO_DISK
    trap 'rm -rf "$scratch"' EXIT
    for link in $links; do # NAME=DIGEST, without spaces
        ln -s "$farm/bundles/${link#*=}" "$scratch/${link%%=*}" || exit $NO_DISK
    done
    cd "$scratch" || exit $NO_DISK
    mkdir tmp || exit $NO_DISK
    export TMPDIR="$scratch/tmp"
    set -- "$first" "$@"
    if systemd-run --user --scope --quiet true </dev/null >/dev/null 2>&1; then
        set -- systemd-run --user --scope --quiet --collect "$@" # a control group of its own
    fi
    began=$(date +%s)
    timeout -k 10 "$seconds" "$@" </dev/null &
    job=$!
    (
        while kill -0 "$holder" 2>/dev/null; do sleep 2; done
        : >lost
        kill $job
    ) >/dev/null 2>&1 &
    watch=$!
    wait $job
    status=$?
    kill $watch 2>/dev/null
    [ -e lost ] && exit $LOST
    [ $status -eq 124 ] && exit $TOO_LONG
    # 137 is also what the system leaves of a process that it killed for its memory.
    [ $status -eq 137 ] && [ $(($(date +%s) - began)) -ge "$seconds" ] && exit $TOO_LONG
    exit $status
}

action=$1
shift
case $action in
    hold) hold "$@" ;;
    probe) probe "$@" ;;
    receive) receive "$@" ;;
    drop) rm -rf "$farm/bundles/$1" ;;
    step) step "$@" ;;
esac
