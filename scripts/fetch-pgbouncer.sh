#!/bin/sh
# Fetches a PgBouncer with max_prepared_statements (1.21 and later) for the tests, where the system's
# is older: from Debian's next release, with the libraries that it needs, unpacked below a folder of
# its own. Changes nothing on the system. Prints the path of the program.
#
#   scripts/fetch-pgbouncer.sh FOLDER
set -eu
target=$(mkdir -p "$1" && cd "$1" && pwd)
program="$target/pgbouncer"
if [ -x "$program" ]; then
    echo "$program"
    exit 0
fi
system=$(PATH="$PATH:/usr/sbin" command -v pgbouncer || true)
minor=$([ -z "$system" ] || "$system" --version | sed -n 's/^PgBouncer 1\.\([0-9]*\).*/\1/p')
if [ "${minor:-0}" -ge 21 ]; then
    ln -s "$system" "$program"
    echo "$program"
    exit 0
fi
[ "$(uname -s)" = Linux ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
    echo "no apt-get here: install PgBouncer 1.21 or later and set PGBOUNCER_NEW to its path" >&2
    exit 1
}
[ "$(dpkg --print-architecture)" = amd64 ] || {
    echo "only for amd64: install PgBouncer 1.21 or later and set PGBOUNCER_NEW to its path" >&2
    exit 1
}
work="$target/work"
rm -rf "$work" "$target/root"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$target/root"
mirror=$(sed -n 's|.*\(https\?://[^ ]*debian\)/\? .*|\1|p; s|^URIs: *\(https\?://[^ ]*debian\)/\?.*|\1|p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} trixie main" > "$work/sources.list"
apt() {
    apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o Acquire::Languages=none \
        -o Acquire::Retries=3 -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Sandbox::User=root "$@"
}
apt update >&2
(
    cd "$work/debs"
    apt download pgbouncer/trixie libc6/trixie libcares2/trixie libevent-2.1-7t64/trixie libssl3t64/trixie \
        libsystemd0/trixie libpam0g/trixie libcap2/trixie libaudit1/trixie libcap-ng0/trixie \
        libzstd1/trixie zlib1g/trixie >&2
    for package in *.deb; do dpkg-deb -x "$package" "$target/root"; done
)
lib="$target/root/usr/lib/x86_64-linux-gnu"
cat > "$program.new" <<WRAPPER
#!/bin/sh
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib:$target/root/lib/x86_64-linux-gnu" "$target/root/usr/sbin/pgbouncer" "\$@"
WRAPPER
chmod +x "$program.new"
"$program.new" --version >&2
chmod -R a+rX "$target"
mv "$program.new" "$program"
rm -rf "$work"
echo "$program"
