package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// watchScript waits until its standard input ends, which happens when the process that started it ends in whatever way, stops the server
// at once and removes its directory. The line "keep" makes it leave both alone. $1 directory, $2 pid file, $3 signal, $4 text that the
// server's command line contains, so that a stale pid file harms nobody.
const watchScript = `
trap '' HUP INT TERM
line=
IFS= read -r line
[ "$line" = keep ] && exit 0
running() {
	case $1 in '' | *[!0-9]*) return 1 ;; esac
	args=$(tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null || ps -p "$1" -o args= 2>/dev/null)
	case $args in *"$4"*) return 0 ;; esac
	return 1
}
n=0
while [ -d "$1" ] && [ $n -lt 300 ]; do
	n=$((n + 1))
	pid=
	[ -s "$2" ] && read -r pid <"$2"
	if running "$pid" "" "" "$4"; then
		if [ $n -eq 1 ]; then kill -"$3" "$pid"; fi
		if [ $n -eq 100 ]; then kill -KILL "$pid"; fi
		sleep 0.1
		continue
	fi
	rm -rf "$1" 2>/dev/null || sleep 0.1
done
`

// watchdog is the shell that ends a server when this process has ended.
type watchdog struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// watch starts the watchdog of the server whose pid will stand in pidFile.
func watch(ctx context.Context, dir, pidFile, signal, match string) (*watchdog, error) {
	c := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", watchScript, "auditdb-watchdog", dir, pidFile, signal, match) //nolint:gosec // a constant script
	c.Dir = "/"
	c.Env = cleanEnv()
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := c.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make the watchdog's pipe: %w", err)
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	return &watchdog{cmd: c, pipe: pipe}, nil
}

// end removes the directory of a server that has ended, and ends the watchdog, which tries again where something still wrote to it.
func (w *watchdog) end(dir string) error {
	err := os.RemoveAll(dir)
	if err := errors.Join(w.pipe.Close(), w.cmd.Wait()); err != nil {
		return fmt.Errorf("end the watchdog of %s: %w", dir, err)
	}
	if _, gone := os.Lstat(dir); errors.Is(gone, fs.ErrNotExist) {
		return nil
	}
	return err
}

// dismiss ends the watchdog and leaves the server running.
func (w *watchdog) dismiss() error {
	if _, err := io.WriteString(w.pipe, "keep\n"); err != nil {
		return fmt.Errorf("dismiss the watchdog: %w", err)
	}
	return errors.Join(w.pipe.Close(), w.cmd.Wait())
}

// process is a running server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// launch starts a server with its output in the directory's log.
func launch(c *exec.Cmd, logFile string, a *account) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	if err := a.own(logFile); err != nil {
		return nil, err
	}
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p := &process{cmd: c, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = c.Wait() // how it ended stands in its log
	}()
	return p, nil
}

// ended says whether the server has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop sends the signals in turn until the server has ended, each with stopGrace; the last step is SIGKILL.
// It goes on when ctx has ended, at once with the last of the signals.
func (p *process) stop(ctx context.Context, signals ...syscall.Signal) error {
	for _, s := range append(signals, syscall.SIGKILL) {
		if p.ended() {
			return nil
		}
		if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("send %s to process %d: %w", s, p.cmd.Process.Pid, err)
		}
		grace, cancel := context.WithTimeout(ctx, stopGrace)
		if s == signals[len(signals)-1] || s == syscall.SIGKILL {
			cancel()
			grace, cancel = context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		}
		select {
		case <-p.done:
		case <-grace.Done():
		}
		cancel()
	}
	if !p.ended() {
		return fmt.Errorf("stop process %d: it survived SIGKILL", p.cmd.Process.Pid)
	}
	return nil
}
