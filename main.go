// Command auditdb runs large PostgreSQL audit-log databases: partitions, ingest, integrity.
package main

import (
	"os"

	"auditdb/cmd"
	_ "auditdb/internal/startup"
)

func main() {
	os.Exit(cmd.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
