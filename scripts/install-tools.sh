#!/bin/sh
# Installs what `make run` and `make test` need and this machine lacks, from the system's package
# manager: a PostgreSQL server with psql, PgBouncer, and the programs that the arguments name. Starts no service. Says
# what it does.
#
#   scripts/install-tools.sh [PROGRAM …]
set -eu

has_server() {
    command -v initdb >/dev/null 2>&1 && return 0
    for folder in /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin \
        /Library/PostgreSQL/*/bin /usr/local/pgsql/bin; do
        [ -x "$folder/initdb" ] && return 0
    done
    return 1
}

missing=
has_server || missing="postgresql"
command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ] || missing="$missing pgbouncer"
for program in "$@"; do
    command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || missing="$missing $program"
done
compiler=yes
command -v cc >/dev/null 2>&1 || compiler=no
[ -n "$missing" ] || [ "$compiler" = no ] || exit 0
echo "installing what is missing: $missing" >&2

if command -v apt-get >/dev/null 2>&1; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    # The packages would start services on ports that we or others use: not while we install.
    guard=/usr/sbin/policy-rc.d
    guarded=
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$guard" >/dev/null
        $sudo chmod +x "$guard"
        guarded=yes
    fi
    trap '[ -z "$guarded" ] || $sudo rm -f "$guard"' EXIT
    [ "$compiler" = yes ] || missing="$missing build-essential"
    $sudo apt-get update -q
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q $missing
elif command -v brew >/dev/null 2>&1; then
    [ "$compiler" = yes ] || { echo "no C compiler: run xcode-select --install" >&2; exit 1; }
    # shellcheck disable=SC2086
    brew install $missing
else
    echo "no apt-get and no brew here: install $missing yourself, or use an existing server (turnstile demo --server URL)" >&2
    exit 1
fi
