#!/bin/sh
# A lattice on this machine: nats-server and some hosts, with the shop spread over them.
#   lattice.sh WEFT NATS_SERVER HOSTS APP FOLDER
# Started by `cargo xtask up --hosts N`. Ctrl-C or SIGTERM drains the hosts, then stops the server.
set -eu
weft=$1 server=$2 count=$3 app=$4 folder=$5
first=${WEFT_HTTP_PORT:-8080}
mkdir -p "$folder"
rm -f "$folder"/nats-server_*.ports

pids=
nats=
stop() {
    trap '' INT TERM
    echo "draining" >&2
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -TERM $pids 2>/dev/null || true
    # shellcheck disable=SC2086
    [ -z "$pids" ] || wait $pids 2>/dev/null || true
    [ -z "$nats" ] || kill "$nats" 2>/dev/null || true
}
trap 'stop; exit 0' INT TERM
fail() {
    echo "error: $1" >&2
    stop
    exit 1
}

"$server" --addr 127.0.0.1 --port -1 --ports_file_dir "$folder" >"$folder/nats.log" 2>&1 &
nats=$!
url=
for _ in $(seq 100); do
    url=$(sed -n 's/.*"nats":\["\([^"]*\)".*/\1/p' "$folder/nats-server_$nats.ports" 2>/dev/null || true)
    [ -z "$url" ] || break
    sleep 0.1
done
[ -n "$url" ] || fail "nats-server did not start: see $folder/nats.log"
echo "NATS at $url" >&2

n=1
while [ "$n" -le "$count" ]; do
    role=
    [ "$n" -ne 1 ] || role=--controller
    # shellcheck disable=SC2086
    "$weft" host --nats "$url" --name "h$n" $role --label "zone=z$n" --data "$folder/h$n" \
        --http "127.0.0.1:$((first + n - 1))" >"$folder/h$n.out" 2>"$folder/h$n.log" &
    pids="$pids $!"
    last=$!
    ready=
    for _ in $(seq 300); do
        ready=$(cat "$folder/h$n.out")
        [ -z "$ready" ] || break
        kill -0 "$last" 2>/dev/null || fail "host h$n ended: $(tail -n 3 "$folder/h$n.log")"
        sleep 0.1
    done
    [ -n "$ready" ] || fail "host h$n did not start: see $folder/h$n.log"
    echo "h$n $ready" >&2
    n=$((n + 1))
done

"$weft" deploy "$app" --nats "$url" >&2 || fail "the shop could not be deployed"
# The storefront runs everywhere; each of the others on one host, in turn.
n=2
for actor in catalog pricing orders images; do
    [ "$count" -lt 2 ] || "$weft" actor place "$actor" --host "h$(((n - 1) % count + 1))" --nats "$url" >&2 ||
        fail "$actor could not be placed"
    n=$((n + 1))
done

# Until every host has applied all that, and nothing is amiss.
for _ in $(seq 300); do
    hosts=$("$weft" get hosts --output json --nats "$url") || fail "the hosts do not answer: see $folder"
    applied=$(echo "$hosts" | grep -o '"applied_index": *[0-9]*' | sort -u | wc -l)
    amiss=$(echo "$hosts" | grep -c '"conditions": *[1-9]' || true)
    [ "$applied" -ne 1 ] || [ "$amiss" -ne 0 ] || break
    sleep 0.1
done
[ "$applied" -eq 1 ] && [ "$amiss" -eq 0 ] || "$weft" get conditions --nats "$url" >&2 || true

cat >&2 <<TEXT

The shop is at http://127.0.0.1:$first/ and at each of the $((count - 1)) ports after it. To try in another terminal:

  curl -X POST http://127.0.0.1:$first/api/seed
  curl http://127.0.0.1:$((first + count - 1))/api/products
  $weft get hosts --nats $url
  $weft get actors --nats $url
  $weft actor place catalog --host h1 --nats $url

Logs are in $folder. Ctrl-C drains the hosts.
TEXT
# shellcheck disable=SC2086
wait $pids || true
stop
