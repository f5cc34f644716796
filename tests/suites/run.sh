#!/usr/bin/env bash
# Real suites directly and through Turnstile, one table: what passes directly, what passes through, what differs.
# Exit code 1 where something differs that known.txt does not explain, or a suite cannot be run.
#
#   tests/suites/run.sh [SUITE …]    psql drivers, and with POSTGRES_BUILD: regress isolation pipeline
#
# POSTGRES_BUILD: a source tree of PostgreSQL that you have built and installed (configure, make, make install; make in
#   contrib/spi, src/test/regress, src/test/isolation, src/test/modules/libpq_pipeline). Its server is used for all suites.
# Without it: the server that is installed here, and the suites that need the tree say that they did not run.
# DRIVERS: which of them (psycopg asyncpg node sqlx tokio_postgres pgjdbc). PROTOCOL: 3.2 where libpq is 18.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
TARGET=$HERE/../../target
export TURNSTILE=${TURNSTILE:-$TARGET/release/turnstile}
BUILD=${POSTGRES_BUILD:-}
OUT=$(mktemp -d "${TMPDIR:-/tmp}/turnstile-suites.XXXXXX")
chmod 755 "$OUT"
# PostgreSQL refuses to run as root.
AS=()
[ "$(id -u)" != 0 ] || AS=(setpriv --reuid "$(id -u postgres)" --regid "$(id -g postgres)" --init-groups env "HOME=$OUT")

if [ -n "$BUILD" ]; then
    PREFIX=$(sed -n 's/^prefix *:= *//p' "$BUILD/src/Makefile.global")
    BIN=$PREFIX/bin
    export LD_LIBRARY_PATH=$PREFIX/lib
else
    BIN=$(dirname "$(command -v initdb || printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)")
fi
export BIN PGHOST=127.0.0.1 PGUSER=postgres LC_ALL=C
[ -z "${PROTOCOL:-}" ] || export PGMAXPROTOCOLVERSION=$PROTOCOL

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
DIRECT=$(free_port)
THROUGH=$(free_port)
export DIRECT

stop() {
    [ -z "${PROXY:-}" ] || kill "$PROXY" 2>/dev/null || true
    "${AS[@]}" "$BIN/pg_ctl" -D "$OUT/data" -m immediate stop >/dev/null 2>&1 || true
    if [ "${KEEP:-}" ] || [ "${failed:-1}" != 0 ]; then echo "results: $OUT" >&2; else rm -rf "$OUT"; fi
}
trap stop EXIT

start() {
    mkdir "$OUT/data"
    [ "$(id -u)" != 0 ] || chown postgres "$OUT/data"
    (cd "$OUT" && "${AS[@]}" "$BIN/initdb" -D "$OUT/data" -U postgres -A trust --locale=C -E UTF8 --no-sync) >"$OUT/initdb.log" 2>&1
    cat >>"$OUT/data/postgresql.conf" <<CONF
port = $DIRECT
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
max_connections = 200
max_prepared_transactions = 10
wal_level = logical
CONF
    (cd "$OUT" && "${AS[@]}" "$BIN/pg_ctl" -D "$OUT/data" -l "$OUT/data/server.log" -w start) >"$OUT/start.log" 2>&1
    "$TURNSTILE" serve --listen "127.0.0.1:$THROUGH" --server "postgres://postgres@127.0.0.1:$DIRECT/postgres" \
        --admin-listen off >"$OUT/turnstile.log" 2>&1 &
    PROXY=$!
    until "$BIN/psql" -qX -p "$THROUGH" -d postgres -c 'SELECT 1' >/dev/null 2>&1; do
        kill -0 "$PROXY" || { cat "$OUT/turnstile.log" >&2; exit 1; }
    done
}

port() { if [ "$1" = direct ]; then echo "$DIRECT"; else echo "$THROUGH"; fi; }
sql() { "$BIN/psql" -qX -p "$DIRECT" -v ON_ERROR_STOP=1 "$@"; }

# fresh NAME: a new database with the settings that pg_regress gives its own, and the schema turbo.
fresh() {
    sql -d postgres -c 'SET client_min_messages = error' -c "DROP DATABASE IF EXISTS \"$1\" WITH (FORCE)" \
        -c "CREATE DATABASE \"$1\" TEMPLATE template0"
    local setting
    for setting in "lc_messages TO 'C'" "lc_monetary TO 'C'" "lc_numeric TO 'C'" "lc_time TO 'C'" "bytea_output TO 'hex'" \
        "timezone_abbreviations TO 'Default'"; do
        sql -d postgres -c "ALTER DATABASE \"$1\" SET $setting"
    done
    "$TURNSTILE" install --server "postgres://postgres@127.0.0.1:$DIRECT/$1" >/dev/null
}

failed=0
row() { printf '%-24s | %13s | %14s | %s\n' "$@"; }
# result SUITE DIRECT THROUGH NAME …: the names differ.
result() {
    local suite=$1 direct=$2 through=$3 words='' name why
    shift 3
    for name in "$@"; do
        why=$(sed -n "s/^$suite $name //p" "$HERE/known.txt")
        [ -n "$why" ] || failed=1
        words="$words$name${why:+ ($why)}; "
    done
    row "$suite" "$direct" "$through" "${words:-none}"
}
not_run() { row "$1" - - "NOT RUN: $2"; failed=1; }

# server_suite NAME DIRECTORY PROGRAM ARGUMENTS …: pg_regress or pg_isolation_regress.
server_suite() {
    local name=$1 source=$BUILD/src/test/$2 program=$3 side base=regression work=$OUT/$1.work
    shift 3
    # One of its specs names the database.
    [ "$name" != isolation ] || base=isolation_regression
    for side in direct through; do
        fresh "$base"
        # The same folder on both sides: it shows in results.
        rm -rf "$work"
        mkdir "$work"
        chmod 777 "$work"
        (cd "$source" && "${AS[@]}" "./$program" --use-existing --dbname="$base" --host=127.0.0.1 --port="$(port $side)" \
            --user=postgres --bindir="$BIN" --dlpath="$BUILD/src/test/regress" --inputdir="$source" --outputdir="$work" "$@") \
            >"$OUT/$name.$side.log" 2>&1 || true
        # What a run that was cut off would leave; both sides begin alike.
        sql -d postgres -c 'SET client_min_messages = error' -c 'DROP ROLE IF EXISTS regress_temp_grantee'
        mv "$work" "$OUT/$name.$side"
    done
    # shellcheck disable=SC2046
    result "$name" "$(passed "$name" direct)" "$(passed "$name" through)" \
        $(diff -rq "$OUT/$name.direct/results" "$OUT/$name.through/results" | sed -E 's/.*results\/([^ ]+)\.out .*/\1/; s/^Only in .*: //')
}
passed() { grep -cE '^(ok |(test)? +.*\.\.\. +ok)' "$OUT/$1.$2.log" || true; }

pipeline_suite() {
    local tests=$BUILD/src/test/modules/libpq_pipeline side name trace rows
    declare -A passes=([direct]=0 [through]=0)
    for side in direct through; do
        fresh pipeline
        mkdir "$OUT/pipeline.$side"
        for name in $("$tests/libpq_pipeline" tests); do
            trace=$OUT/pipeline.$side/$name.trace
            rows=(-r 700)
            [ "$name" != pipeline_idle ] || rows=()
            if timeout 120 "$tests/libpq_pipeline" "${rows[@]}" -t "$trace" "$name" \
                "host=127.0.0.1 port=$(port $side) dbname=pipeline user=postgres" >"$OUT/pipeline.$side/$name.out" 2>&1; then
                passes[$side]=$((passes[$side] + 1))
            fi
            # The order of the others' results depends on time; PostgreSQL does not compare them either.
            [ -f "$tests/traces/$name.trace" ] || rm -f "$trace"
        done
        rm "$OUT/pipeline.$side"/*.out
    done
    # shellcheck disable=SC2046
    result pipeline "${passes[direct]}" "${passes[through]}" \
        $(diff -rq "$OUT/pipeline.direct" "$OUT/pipeline.through" | sed -E 's/.*pipeline.through\/([^ ]+)\.trace .*/\1/; s/^Only in .*: //')
}

psql_suite() {
    local side
    # Dumps of one and the same database, byte by byte.
    fresh dumped
    "$BIN/pgbench" -p "$DIRECT" -i -q -s 1 dumped >"$OUT/dumped.log" 2>&1
    for side in direct through; do
        PGPORT=$(port $side) DB=dumped OUT=$OUT/psql.$side bash "$HERE/psql.sh" >"$OUT/psql.$side.log" 2>&1
    done
    local check different=()
    for check in "$OUT"/psql.direct/*.code; do
        check=$(basename "$check" .code)
        cmp -s "$OUT/psql.direct/$check.out" "$OUT/psql.through/$check.out" &&
            cmp -s "$OUT/psql.direct/$check.code" "$OUT/psql.through/$check.code" || different+=("$check")
    done
    local all
    all=$(find "$OUT/psql.direct" -name '*.code' | wc -l)
    result psql "$all" "$((all - ${#different[@]}))" "${different[@]}"
}

# prepare DRIVER: prints the command that runs its program.
prepare() {
    local programs=$HERE/drivers packages=$TARGET/suites
    mkdir -p "$packages"
    case $1 in
    psycopg | asyncpg)
        [ -x "$packages/venv/bin/python" ] || python3 -m venv "$packages/venv" >&2
        "$packages/venv/bin/pip" install -q --disable-pip-version-check -r "$programs/requirements.txt" >&2
        echo "$packages/venv/bin/python $programs/$1_suite.py"
        ;;
    node)
        mkdir -p "$packages/node"
        cp "$programs/package.json" "$programs/node.mjs" "$packages/node"
        (cd "$packages/node" && npm install --silent --no-audit --no-fund) >&2
        echo "node $packages/node/node.mjs"
        ;;
    sqlx | tokio_postgres)
        cargo build -q --locked --manifest-path "$programs/$1/Cargo.toml" --target-dir "$packages/cargo" >&2
        echo "$packages/cargo/debug/suite-${1//_/-}"
        ;;
    pgjdbc)
        [ -f /usr/share/java/postgresql.jar ] || { echo "install libpostgresql-jdbc-java" >&2; return 1; }
        mkdir -p "$packages/jdbc"
        javac -cp /usr/share/java/postgresql.jar -d "$packages/jdbc" "$programs/Jdbc.java" >&2
        echo "java -cp /usr/share/java/postgresql.jar:$packages/jdbc Jdbc"
        ;;
    *)
        echo "no driver is called $1" >&2
        return 1
        ;;
    esac
}

# Each driver's program: passes are its parts.
drivers_suite() {
    local driver command side parts
    fresh drivers
    for driver in ${DRIVERS:-psycopg asyncpg node sqlx tokio_postgres pgjdbc}; do
        command=$(prepare "$driver" 2>"$OUT/$driver.prepare.log") || { not_run "$driver" "$(tail -n 1 "$OUT/$driver.prepare.log")"; continue; }
        declare -A passes=()
        local different=()
        for side in direct through; do
            # shellcheck disable=SC2086
            timeout 180 $command "postgres://postgres@127.0.0.1:$(port $side)/drivers" >"$OUT/$driver.$side.out" 2>"$OUT/$driver.$side.err" ||
                different+=("$side: exit code $?")
            parts=$(grep -c '^VERSION .* of ' "$OUT/$driver.$side.out" || true)
            passes[$side]=$parts
        done
        cmp -s <(grep -v ^VERSION "$OUT/$driver.direct.out") <(grep -v ^VERSION "$OUT/$driver.through.out") || different+=(transcript)
        # Directly nothing moves a version; through, each write does, once.
        tail -n 1 "$OUT/$driver.direct.out" | grep -q '^VERSION 0 of ' || different+=("a version moved directly")
        tail -n 1 "$OUT/$driver.through.out" | grep -qE '^VERSION ([0-9]+) of \1$' || different+=("versions moved otherwise")
        result "$driver" "${passes[direct]}" "${passes[through]}" "${different[@]}"
    done
}

start
SUITES=${*:-regress isolation pipeline psql drivers}
row suite 'passes direct' 'passes through' differences
for suite in $SUITES; do
    case $suite in
    regress | isolation | pipeline)
        if [ -z "$BUILD" ]; then
            not_run "$suite" "set POSTGRES_BUILD to a built source tree of PostgreSQL"
            continue
        fi
        ;;
    esac
    case $suite in
    regress)
        server_suite regress regress pg_regress --max-concurrent-tests=20 --max-connections=20 --schedule="$BUILD/src/test/regress/parallel_schedule"
        ;;
    isolation)
        server_suite isolation isolation pg_isolation_regress --schedule="$BUILD/src/test/isolation/isolation_schedule"
        ;;
    pipeline) pipeline_suite ;;
    psql) psql_suite ;;
    drivers) drivers_suite ;;
    *)
        echo "no suite is called $suite: regress isolation pipeline psql drivers" >&2
        exit 2
        ;;
    esac
done
exit "$failed"
