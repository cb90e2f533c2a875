#!/bin/sh
# Installs the programs of PostgreSQL (14 or later) and Redis where they are missing, by apt or Homebrew, and with the argument "tests" also
# what only tests need, with "monitoring" Prometheus and its Alertmanager. It starts no server, makes no cluster, and leaves running servers alone. Where it may not install, it prints the one
# line to run and exits 2.
set -eu

purpose=${1:-}

min_postgres=14
here=$(cd "$(dirname "$0")" && pwd)

say() { printf '%s\n' "$*" >&2; }

refuse() {
	say "$1"
	say "run: $2"
	exit 2
}

usable_postgres() { # DIRECTORY
	[ -x "$1/initdb" ] && [ -x "$1/postgres" ] || return 1
	version=$("$1/postgres" --version 2>/dev/null | sed -n 's/.*(PostgreSQL) \([0-9][0-9]*\).*/\1/p')
	[ -n "$version" ] && [ "$version" -ge "$min_postgres" ]
}

have_postgres() {
	if [ -n "${AUDITDB_PG_BIN:-}" ]; then
		usable_postgres "$AUDITDB_PG_BIN"
		return
	fi
	if program=$(command -v postgres 2>/dev/null) && usable_postgres "$(dirname "$program")"; then
		return 0
	fi
	for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* \
		/opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
		/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin /Applications/Postgres.app/Contents/Versions/*/bin; do
		if usable_postgres "$dir"; then return 0; fi
	done
	return 1
}

have_redis() { command -v redis-server >/dev/null 2>&1; }

# missing_for_tests prints the packages whose programs tests run and do not find.
missing_for_tests() {
	if [ "$purpose" = monitoring ]; then
		command -v prometheus >/dev/null 2>&1 || printf ' prometheus'
		command -v prometheus-alertmanager >/dev/null 2>&1 || printf ' prometheus-alertmanager'
	fi
	[ "$purpose" = tests ] || return 0
	command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ] || printf ' pgbouncer'
	command -v python3 >/dev/null 2>&1 || printf ' python3'
	if command -v apt-get >/dev/null 2>&1 && ! command -v faketime >/dev/null 2>&1; then printf ' faketime'; fi # elsewhere the test that wants it is skipped
}

with_apt() {
	if [ "$(id -u)" -ne 0 ]; then
		if command -v sudo >/dev/null 2>&1; then
			if sudo -n true 2>/dev/null; then exec sudo -n sh "$here/install-servers.sh" $purpose; fi
			if [ -t 0 ] && [ -t 2 ]; then exec sudo sh "$here/install-servers.sh" $purpose; fi
		fi
		refuse "PostgreSQL $min_postgres or later and Redis are needed, and installing them needs root." "sudo sh $here/install-servers.sh $purpose"
	fi

	# No cluster is made and no service is started while the packages are installed.
	undo=
	trap 'for f in $undo; do rm -f "$f"; done; rmdir /etc/postgresql-common/createcluster.d 2>/dev/null || :' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	mkdir -p /etc/postgresql-common/createcluster.d
	undo=/etc/postgresql-common/createcluster.d/auditdb.conf
	printf 'create_main_cluster = false\n' >"$undo"
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		undo="$undo /usr/sbin/policy-rc.d"
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi

	packages=
	if ! have_redis; then packages=redis-server; fi
	# A failure here may be one broken source of many; what counts is whether the packages can be had.
	apt-get update -q >&2 || say "apt-get update failed; going on with the lists that are there"
	if ! have_postgres; then
		server=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/^ *Depends: \(postgresql-[0-9][0-9]*\)$/\1/p' | head -n 1)
		if [ -z "$server" ] || [ "${server#postgresql-}" -lt "$min_postgres" ]; then
			refuse "This system's packages have no PostgreSQL $min_postgres or later (found: ${server:-none})." \
				"apt-get install -y postgresql-common && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y && sh $here/install-servers.sh"
		fi
		packages="$packages $server"
	fi
	packages="$packages$(missing_for_tests)"
	say "installing:$(printf ' %s' $packages)"
	# shellcheck disable=SC2086 # a list of names
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages >&2
	for service in redis-server prometheus prometheus-alertmanager; do
		case " $packages " in *" $service "*)
			if command -v systemctl >/dev/null 2>&1; then systemctl disable --quiet "$service.service" 2>/dev/null || :; fi
			;;
		esac
	done
}

with_brew() {
	packages=
	if ! have_postgres; then packages=postgresql@17; fi
	if ! have_redis; then packages="$packages redis"; fi
	packages="$packages$(missing_for_tests)"
	if [ "$(id -u)" -eq 0 ]; then
		refuse "PostgreSQL $min_postgres or later and Redis are needed, and Homebrew does not run as root." "brew install $packages"
	fi
	# shellcheck disable=SC2086 # a list of names
	HOMEBREW_NO_AUTO_UPDATE=1 brew install $packages >&2
}

if have_postgres && have_redis && [ -z "$(missing_for_tests)" ]; then exit 0; fi
if command -v apt-get >/dev/null 2>&1; then
	with_apt
elif command -v brew >/dev/null 2>&1; then
	with_brew
elif command -v dnf >/dev/null 2>&1; then
	refuse "PostgreSQL $min_postgres or later and Redis are needed." "sudo dnf install -y postgresql-server redis"
else
	refuse "PostgreSQL $min_postgres or later and Redis are needed, and neither apt-get nor brew is here to install them." \
		"AUDITDB_PG_BIN=/path/to/postgresql/bin PATH=\$PATH:/path/to/redis make demo"
fi
if [ -n "$(missing_for_tests)" ]; then
	say "The packages were installed, but these are still not found:$(missing_for_tests)"
	exit 1
fi
if ! have_postgres || ! have_redis; then
	say "The packages were installed, but PostgreSQL $min_postgres or later and Redis are still not found."
	exit 1
fi
