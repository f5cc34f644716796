#!/usr/bin/env bash
# psql scripts, pg_dump, pg_restore, pgbench on one port: each check leaves OUT/NAME.out (to be equal on both sides) and NAME.code.
# Environment: BIN PGHOST PGPORT PGUSER DIRECT TURNSTILE DB OUT; both ports reach the same server.
rm -rf "$OUT"; mkdir -p "$OUT"; chmod 777 "$OUT"; cd "$OUT" || exit 1

check() { local name=$1; shift; "$@" >"$name.out" 2>&1; echo $? >"$name.code"; }
sql() { "$BIN"/psql -qX -d "$1" "${@:2}"; }
version=$("$BIN"/psql -V | grep -oE '[0-9]+' | head -1)
new() { sql postgres -c "SET client_min_messages = error" -c "DROP DATABASE IF EXISTS \"$1\" WITH (FORCE)" -c "CREATE DATABASE \"$1\" TEMPLATE ${2:-template0}"; }

# What the scripts run on: with tracked tables, a function that writes them, large objects.
new "${DB}_t"; "$TURNSTILE" install --server "postgres://postgres@127.0.0.1:$PGPORT/${DB}_t" >/dev/null 2>&1
cat >setup.sql <<'S'
CREATE TABLE tv_user (tenant_id uuid, id int, name text);
CREATE TABLE plain (id serial PRIMARY KEY, name text, at timestamptz DEFAULT '2020-01-01');
CREATE FUNCTION make_user(n int) RETURNS int LANGUAGE plpgsql AS
  $$BEGIN INSERT INTO tv_user VALUES (md5(n::text)::uuid, n, 'made'); RAISE NOTICE 'made %', n; RETURN n; END$$;
INSERT INTO plain (name) SELECT 'row ' || g FROM generate_series(1, 5000) g;
SELECT lo_from_bytea(4711, decode(repeat('deadbeef', 3000), 'hex'));
S
cat >copy.sql <<'S'
\copy plain (id, name) TO 'plain.txt'
\copy (SELECT id, name FROM plain WHERE id < 4) TO STDOUT WITH (FORMAT csv, HEADER)
TRUNCATE plain;
\copy plain (id, name) FROM 'plain.txt'
SELECT count(*), sum(id), max(name) FROM plain;
\copy tv_user FROM STDIN WITH (FORMAT csv)
11111111-1111-1111-1111-111111111111,1,one
22222222-2222-2222-2222-222222222222,2,"two, quoted"
\.
COPY tv_user TO STDOUT;
COPY tv_user FROM STDIN;
11111111-1111-1111-1111-111111111111	x	bad
\.
COPY tv_user (id) FROM STDIN; SELECT count(*) FROM tv_user; COPY plain (id) FROM STDIN;
3
\.
900001
\.
BEGIN; COPY tv_user (id) FROM STDIN; ROLLBACK;
4
\.
\copy tv_nothing FROM 'plain.txt'
\copy plain TO PROGRAM 'md5sum'
\lo_export 4711 lo.bin
\lo_import lo.bin
\lo_unlink :LASTOID
S
cat >meta.sql <<'S'
\set VERBOSITY verbose
\set FETCH_COUNT 1
SELECT id, name FROM plain ORDER BY id LIMIT 5;
SELECT 1 / (3 - g) FROM generate_series(1, 5) g;
UPDATE tv_user SET name = 'x' WHERE id < 2 RETURNING id, name;
SELECT make_user(7);
\unset FETCH_COUNT
SELECT id, name, at, 1.5::numeric(5,2) AS n FROM plain \gdesc
UPDATE tv_user SET name = name RETURNING id, name AS other \gdesc
SELECT nothing FROM plain \gdesc
SELECT 'SELECT ' || g || ' AS a' FROM generate_series(1, 3) g \gexec
SELECT 42 AS answer \gset
\echo :answer :ROW_COUNT :SQLSTATE :ERROR
INSERT INTO tv_user VALUES (NULL, 5, 'a'), (NULL, 6, 'b');
\echo :ROW_COUNT
SELECT make_user(8); SELECT make_user(9), syntax error here;
INSERT INTO tv_user VALUES (NULL, 5, 'a', 'too many');
INSERT INTO tv_user (nothing) VALUES (1) RETURNING wrong;
\errverbose
SELECT make_user(10) \; SELECT 1 \; UPDATE tv_user SET name = 'y' WHERE id = 10 RETURNING id;
BEGIN; SELECT make_user(11); SAVEPOINT s; SELECT 1/0; ROLLBACK TO s; COMMIT;
\set ON_ERROR_ROLLBACK on
BEGIN; INSERT INTO tv_user VALUES ('nonsense'); INSERT INTO tv_user (id) VALUES (12); COMMIT;
\set AUTOCOMMIT off
INSERT INTO tv_user (id) VALUES (13);
VACUUM plain;
ROLLBACK;
\set AUTOCOMMIT on
VACUUM tv_user;
DO $$BEGIN RAISE WARNING 'careful'; INSERT INTO tv_user (id) VALUES (14); END$$;
PREPARE p(int) AS INSERT INTO tv_user (id) VALUES ($1) RETURNING id; EXECUTE p(15); EXECUTE p('x'); DEALLOCATE p;
DECLARE c CURSOR WITH HOLD FOR SELECT id FROM plain ORDER BY id; FETCH 2 FROM c; CLOSE c;
LISTEN a; NOTIFY a, 'payload'; SELECT 1;
\d tv_user
\df make_user
\dt
\sf make_user
SELECT count(*), array_agg(id ORDER BY id) FROM tv_user;
S
[ "$version" -ge 16 ] && cat >>meta.sql <<'S'
SELECT $1::int + $2::int AS sum \bind 1 2 \g
INSERT INTO tv_user (id, name) VALUES ($1, $2) RETURNING id \bind 20 bound \g
SELECT $1::int \bind x \g
S
[ "$version" -ge 18 ] && cat >>meta.sql <<'S'
INSERT INTO tv_user (id) VALUES ($1) \parse stmt
\bind_named stmt 21 \g
\close_prepared stmt
\startpipeline
SELECT $1 \bind 1 \sendpipeline
INSERT INTO tv_user (id) VALUES ($1) RETURNING id \bind 22 \sendpipeline
\flushrequest
\getresults
SELECT 1/0 \bind \sendpipeline
SELECT 2 \bind \sendpipeline
\syncpipeline
SELECT make_user($1) \bind 23 \sendpipeline
\endpipeline
SELECT count(*) FROM tv_user;
S
check setup sql "${DB}_t" -v ON_ERROR_STOP=1 -f setup.sql
check copy "$BIN"/psql -X -d "${DB}_t" -f copy.sql
check meta "$BIN"/psql -X -d "${DB}_t" -f meta.sql
check meta-stdin sh -c "'$BIN'/psql -X -e -d '${DB}_t' <meta.sql"
sed -Ei 's/server process with PID [0-9]+/server process with PID/; s/^lo_(import|unlink) [0-9]+/lo_\1/' ./*.out
check single-transaction "$BIN"/psql -X -1 -v ON_ERROR_STOP=1 -d "${DB}_t" -f meta.sql
check command-strings "$BIN"/psql -X -d "${DB}_t" -c "INSERT INTO tv_user (id) VALUES (1); SELECT make_user(2); SELECT 1/0" -c "VACUUM plain" -c "TABLE tv_user" -c "INSERT INTO tv_user (id) VALUES (1); VACUUM plain"


# Dumps of DB, which nobody writes meanwhile: byte by byte.
key=; "$BIN"/pg_dump --help | grep -q restrict-key && key=--restrict-key=key
check dump-plain "$BIN"/pg_dump $key "$DB"
check dump-inserts "$BIN"/pg_dump $key --inserts --rows-per-insert=3 "$DB"
check dump-all-globals "$BIN"/pg_dumpall -g $key
"$BIN"/pg_dump -Fc -f custom "$DB"; check dump-custom "$BIN"/pg_restore $key -f - custom
"$BIN"/pg_dump -Fd -j2 -f directory "$DB"; check dump-directory "$BIN"/pg_restore $key -f - directory
sed -Ei '/^-- Started on|^-- Completed on/d' dump-*.out
# Restores, of a dump that was taken directly: exit code, messages, and what is there afterwards.
"$BIN"/pg_dump -p "$DIRECT" $key -N turbo -f restore.sql "${DB}_t"; "$BIN"/pg_dump -p "$DIRECT" -N turbo -Fd -f restore.dir "${DB}_t"
"$BIN"/pg_dump -p "$DIRECT" -N turbo -Fc -f restore.custom "${DB}_t"
restored() { # NAME COMMAND…: into an empty database
    new "${DB}_r"; check "$1" "${@:2}"; "$BIN"/pg_dump -p "$DIRECT" $key "${DB}_r" >>"$1.out" 2>&1; }
restored restore-plain "$BIN"/psql -X -d "${DB}_r" -f restore.sql
restored restore-plain-1 "$BIN"/psql -X -1 -d "${DB}_r" -f restore.sql
restored restore-custom "$BIN"/pg_restore -d "${DB}_r" restore.custom
restored restore-directory-j2 "$BIN"/pg_restore -j2 -d "${DB}_r" restore.dir
restored restore-pipe sh -c "'$BIN'/pg_dump -N turbo -Fc '${DB}_t' | '$BIN'/pg_restore -1 -d '${DB}_r'"

# pgbench: on its own tables, and on a tracked one.
echo "INSERT INTO tv_user (id, name) VALUES (:client_id, 'bench'); UPDATE plain SET name = 'b' WHERE id = 1;" >tracked.bench
printf '\\startpipeline\nINSERT INTO tv_user (id) VALUES (1);\nSELECT 1;\nINSERT INTO plain (name) VALUES (1);\n\\endpipeline\n' >pipeline.bench
bench() { "$BIN"/pgbench "$@" "${DB}_t" 2>&1 | grep -vE '^(tps|latency|initial|number of transactions actually|pgbench \(|done in|.* tuples \()'; return "${PIPESTATUS[0]}"; }
check bench-init bench -i -s 2 -q
for mode in simple extended prepared; do
    check bench-$mode bench -n -M $mode -T 3 -c 4
    check bench-$mode-tracked bench -n -M $mode -T 3 -c 4 -f tracked.bench
    [ $mode = simple ] || check bench-$mode-pipeline bench -n -M $mode -T 3 -c 4 -f pipeline.bench
done
