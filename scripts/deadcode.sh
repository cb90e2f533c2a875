#!/bin/sh
# Fails when code is never reached: by the program itself, or, for what exists to support tests, by a test. Exceptions stand with their
# reasons in tools/deadcode.allow, one pattern for grep -E a line.
set -eu
cd "$(dirname "$0")/.."

deadcode() { go tool -modfile=tools/go.mod deadcode "$@"; }

patterns=$(mktemp)
trap 'rm -f "$patterns"' EXIT
sed -e 's/[[:space:]]*#.*//' -e '/^$/d' tools/deadcode.allow >"$patterns"

status=0
program=$(deadcode .)
tests=$(deadcode -tags=bench,soak,monitoring,duckdb,s3 -test ./...)
# Servers are killed and restarted by tests only.
if printf '%s\n' "$program" | grep -v '^internal/embedded/' | grep -v -E -f "$patterns" | grep .; then
	echo "unreachable from main.go: remove it, or use it" >&2
	status=1
fi
if printf '%s\n' "$tests" | grep -v -E -f "$patterns" | grep .; then
	echo "unreachable from main.go and from every test: remove it" >&2
	status=1
fi
exit $status
