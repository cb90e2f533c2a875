package output

import (
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
)

// Progress counts work done. Its methods may be called from several goroutines; Add costs one atomic addition.
type Progress interface {
	Add(n int64)
	Done()
}

// Unit says what a Progress counts.
type Unit string

// The units of Progress.
const (
	Items Unit = "items"
	Rows  Unit = "rows"
	Bytes Unit = "bytes"
)

// How often progress is shown: on a terminal, and as a log line.
const (
	barEvery = 200 * time.Millisecond
	logEvery = 30 * time.Second
)

// Silent is progress that nobody sees.
func Silent() Progress { return silent{} }

type silent struct{}

func (silent) Add(int64) {}
func (silent) Done()     {}

type progress struct {
	count atomic.Int64
	stop  chan struct{}
	ended sync.WaitGroup
	once  sync.Once
}

func start(every time.Duration, show, finish func(n int64)) *progress {
	p := &progress{stop: make(chan struct{})}
	p.ended.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show(p.count.Load())
			case <-p.stop:
				finish(p.count.Load())
				return
			}
		}
	})
	return p
}

// Add counts n more.
func (p *progress) Add(n int64) { p.count.Add(n) }

// Done ends the display; it may be called again.
func (p *progress) Done() {
	p.once.Do(func() { close(p.stop) })
	p.ended.Wait()
}

// Bar shows progress as a bar on a terminal, which is cleared at the end. total 0: not known.
func Bar(w io.Writer, label string, total int64, unit Unit) Progress {
	if total <= 0 {
		total = -1
	}
	bar := progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(label),
		progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetItsString(string(unit)),
		progressbar.OptionShowBytes(unit == Bytes),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionSetSpinnerChangeInterval(0),
		progressbar.OptionClearOnFinish(),
	)
	show := func(n int64) { _ = bar.Set64(n) } // a bar that cannot be drawn stops no work
	return start(barEvery, show, func(int64) { _ = bar.Clear() })
}

// LogLines reports progress as a log line every 30 s, for logs of unattended runs.
func LogLines(log *slog.Logger, label string, total int64, unit Unit) Progress {
	return logLines(log, label, total, unit, logEvery)
}

func logLines(log *slog.Logger, label string, total int64, unit Unit, every time.Duration) Progress {
	var last int64
	show := func(n int64) {
		attrs := []any{slog.Int64("done", n)}
		if total > 0 {
			attrs = append(attrs, slog.Int64("total", total), slog.String("percent", fmt.Sprintf("%.1f", 100*float64(n)/float64(total))))
		}
		attrs = append(attrs, slog.String("rate", rate(n-last, unit, every)))
		if total > n && n > last {
			attrs = append(attrs, slog.String("eta", HumanDuration(time.Duration(float64(total-n)/float64(n-last)*float64(every)))))
		}
		last = n
		log.Info(label, attrs...)
	}
	return start(every, show, func(int64) {})
}

func rate(n int64, unit Unit, over time.Duration) string {
	perSecond := float64(n) / over.Seconds()
	if unit == Bytes {
		return humanize.IBytes(uint64(max(perSecond, 0))) + "/s"
	}
	return humanize.CommafWithDigits(perSecond, 0) + " " + string(unit) + "/s"
}
