#!/bin/sh
# Installs the programs that deploy/servers.py and the browser tests run: Postgres, Redis, Ceph's S3 gateway, Chromium;
# a C compiler, for the clock that tests/chaos sets wrong; and Prometheus, for the promtool that tests the alerts.
# Only what is missing, without recommended packages, and without starting the daemons that come with them.
set -eu

has() {
    command -v "$1" >/dev/null 2>&1
}

# Debian keeps Postgres' own programs off PATH, in a folder per version.
has_postgres() {
    has initdb && return
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$initdb" ] && return
    done
    return 1
}

has_chromium() {
    has chromium || has chromium-browser || has google-chrome
}

missing=""
has setpriv || missing="$missing util-linux"
has_postgres || missing="$missing postgresql"
has redis-server || missing="$missing redis-server"
for program in radosgw ceph-mon ceph-osd; do
    has "$program" || missing="$missing $program"
done
has_chromium || missing="$missing chromium"
has promtool || missing="$missing prometheus"
has cc || missing="$missing gcc libc6-dev"

if [ -z "$missing" ]; then
    echo "servers: nothing to install"
    exit 0
fi

by_hand() {
    cat >&2 <<END
servers: apt-get cannot install these here, by the names of Debian's packages:
   $1
Install them by hand, so that these programs are on PATH: setpriv (Linux only), initdb and postgres, redis-server,
ceph, ceph-mon, ceph-osd, monmaptool, radosgw, radosgw-admin, promtool, cc, and chromium or google-chrome. Nothing has to run as a
service. Debian 12 has PostgreSQL 15, Redis 7.0 and Ceph 16.2.
END
    exit 1
}

has apt-get || by_hand "$missing"

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! has sudo; then
        echo "servers: run as root: apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    as_root="sudo"
fi

# Packages start their daemons on installation unless this file forbids it. One that is there already has its reasons.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi

apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"
}

apt update
found="" unknown=""
for package in $missing; do
    if apt-cache show "$package" >/dev/null 2>&1; then found="$found $package"; else unknown="$unknown $package"; fi
done
if [ -n "$found" ]; then
    echo "servers: installing$found"
    # shellcheck disable=SC2086  # a list of words
    apt install -y --no-install-recommends $found
fi
if [ -d /run/systemd/system ]; then
    echo "servers: the packages' own services start at the next boot unless you disable them:"
    echo "    systemctl disable postgresql redis-server prometheus"
fi
[ -z "$unknown" ] || by_hand "$unknown"
