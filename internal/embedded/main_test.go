package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"auditdb/internal/embedded"
)

const helperEnv = "AUDITDB_EMBEDDED_HELPER"

// TestMain also plays the process that starts servers and is then killed.
func TestMain(m *testing.M) {
	if mode := os.Getenv(helperEnv); mode != "" {
		if err := helper(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// helper starts servers, prints their directories and process ids, and waits for the end of its standard input; then it panics or leaves
// the servers detached, as mode says.
func helper(mode string) error {
	ctx := context.Background()
	pg, err := embedded.StartPostgres(ctx, embedded.Options{})
	if err != nil {
		return err
	}
	r, err := embedded.StartRedis(ctx, embedded.RedisOptions{Installed: true})
	if err != nil {
		return err
	}
	if mode == "detach" {
		if err := pg.Detach(); err != nil {
			return err
		}
		if err := r.Detach(); err != nil {
			return err
		}
	}
	fmt.Println(pg.PID(), pg.Dir(), r.PID(), r.Dir(), pg.URL("postgres"))
	if mode == "detach" {
		return nil
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	panic("as asked")
}
