//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// settle is how long clients run before and after what is measured.
const settle = 500 * time.Millisecond

// workload is what goes on while a command runs.
type workload struct {
	insert string        // with the time of the row as $1
	old    time.Time     // every eighth row goes there; zero: none does
	read   string        // in a loop on a connection of its own; "": nobody reads
	hold   string        // what the reader has read that holds its transaction open; "": there is none
	held   time.Duration // how long it does
}

// moment is one transaction, by the time since the clients began.
type moment struct{ at, took time.Duration }

// outcome is what the clients saw while the command ran.
type outcome struct {
	inserts, reads []time.Duration // sorted
	locked         float64         // longest wait of a client for a lock in ms; 0: none of more than 10
	took           time.Duration   // the command
	failed         int             // transactions
	failure, err   error           // the last of those; the command's
}

// worst is the longest wait, and in brackets what 99.9 % of the waits stayed within.
func worst(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s (%s)", milli(d[len(d)-1]), milli(d[len(d)*999/1000]))
}

func milli(d time.Duration) string {
	ms := float64(d.Microseconds()) / 1000
	if ms < 100 {
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

// client is one connection whose transactions are timed.
type client struct {
	conn    *pgx.Conn
	samples []moment
	failed  int
	failure error
}

// loop runs one transaction after the other until stop is closed.
func (c *client) loop(begun time.Time, stop <-chan struct{}, do func(i int) error) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		start := time.Now()
		if err := do(i); err != nil {
			c.failed++
			c.failure = err
		}
		c.samples = append(c.samples, moment{start.Sub(begun), time.Since(start)})
	}
}

func (b *bench) connect(database string) *pgx.Conn {
	b.t.Helper()
	conn, err := pgx.Connect(context.Background(), b.pg.URL(database))
	if err != nil {
		b.t.Fatal(err)
	}
	// Waiting for locks is measured, not waiting for the disk.
	if _, err := conn.Exec(context.Background(), "SET synchronous_commit = off; SET application_name = 'client'"); err != nil {
		b.t.Fatal(err)
	}
	return conn
}

// during runs the command while 4 clients insert and, where the workload says so, one reads and one holds a transaction open; that one ends
// with the command at the latest.
func (b *bench) during(database string, w workload, command func() error) outcome {
	b.t.Helper()
	ctx := context.Background()
	clients := make([]*client, 4, 5)
	if w.read != "" {
		clients = clients[:5]
	}
	for i := range clients {
		clients[i] = &client{conn: b.connect(database), samples: make([]moment, 0, 1<<18)}
		defer clients[i].conn.Close(ctx)
	}
	release := b.openReader(database, w)
	stop := make(chan struct{})
	var done sync.WaitGroup
	begun := time.Now()
	for i, c := range clients {
		do := func(i int) error {
			at := time.Now()
			if i%8 == 0 && !w.old.IsZero() {
				at = w.old
			}
			_, err := c.conn.Exec(ctx, w.insert, at)
			return err
		}
		if i == 4 {
			do = func(int) error { _, err := c.conn.Exec(ctx, w.read); return err }
		}
		done.Go(func() { c.loop(begun, stop, do) })
	}
	time.Sleep(settle)
	said := b.serverLog(0)
	from := time.Since(begun)
	err := command()
	to := time.Since(begun)
	release()
	time.Sleep(settle)
	close(stop)
	done.Wait()
	o := outcome{took: to - from, err: err, locked: longestWait(b.serverLog(len(said)))}
	for i, c := range clients {
		o.failed += c.failed
		if c.failure != nil {
			o.failure = c.failure
		}
		for _, s := range c.samples {
			switch {
			case s.at+s.took < from || s.at > to:
			case i == 4:
				o.reads = append(o.reads, s.took)
			default:
				o.inserts = append(o.inserts, s.took)
			}
		}
	}
	slices.Sort(o.inserts)
	slices.Sort(o.reads)
	return o
}

// serverLog is the server's log from an offset on.
func (b *bench) serverLog(from int) string {
	b.t.Helper()
	raw, err := os.ReadFile(b.pg.LogFile())
	if err != nil {
		b.t.Fatal(err)
	}
	return string(raw[from:])
}

// longestWait is how long a client waited for a lock at most, in ms, as the server logged it.
func longestWait(log string) (longest float64) {
	waits := regexp.MustCompile(`(?m)^client LOG:  process \d+ acquired .* after ([\d.]+) ms$`)
	for _, m := range waits.FindAllStringSubmatch(log, -1) {
		ms, _ := strconv.ParseFloat(m[1], 64)
		longest = max(longest, ms)
	}
	return longest
}

// openReader opens the transaction that stays open, and returns what ends it before its time.
func (b *bench) openReader(database string, w workload) (release func()) {
	b.t.Helper()
	if w.hold == "" {
		return func() {}
	}
	ctx := context.Background()
	conn := b.connect(database)
	tx, err := conn.Begin(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, w.hold); err != nil {
		b.t.Fatal(err)
	}
	over := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-over:
		case <-time.After(w.held):
		}
		_ = tx.Rollback(ctx)
		_ = conn.Close(ctx)
	}()
	return sync.OnceFunc(func() { close(over); <-ended })
}

// process runs c as the command of during. The error that it prints first is the reason where it fails.
func process(c *exec.Cmd) func() error {
	return func() error {
		var stderr strings.Builder
		c.Stderr = &stderr
		err := c.Run()
		if err == nil {
			return nil
		}
		for line := range strings.Lines(stderr.String()) {
			if _, text, found := strings.Cut(line, "ERROR: "); found {
				return errors.New(strings.TrimSpace(text))
			}
		}
		line, _, _ := strings.Cut(stderr.String(), "\n")
		return fmt.Errorf("%w: %s", err, line)
	}
}

// note is what is to be added to a figure when something did not go as it should.
func (o outcome) note() string {
	var text string
	if o.err != nil {
		text += fmt.Sprintf(", FAILED: %.70s", o.err)
	}
	if o.failed > 0 {
		text += fmt.Sprintf(", %d transactions failed: %.70s", o.failed, o.failure)
	}
	return text
}
