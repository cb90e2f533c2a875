package postgres

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5/tracelog"
)

// traceLogger writes the driver's trace at debug level: statement shape, duration, rows, SQLSTATE. Arguments and the server's
// messages are left out, because they hold event payloads.
type traceLogger struct{ log *slog.Logger }

const traceSQLLimit = 300

func (t traceLogger) Log(ctx context.Context, _ tracelog.LogLevel, msg string, data map[string]any) {
	attrs := make([]slog.Attr, 0, 6)
	if sql, ok := data["sql"].(string); ok {
		attrs = append(attrs, slog.String("sql", cut(oneLine(sql), traceSQLLimit)))
	}
	for _, key := range []string{"time", "commandTag", "pid", "tableName", "rowCount"} {
		if v, ok := data[key]; ok {
			attrs = append(attrs, slog.Any(key, v))
		}
	}
	if err, ok := data["err"].(error); ok {
		attrs = append(attrs, slog.String("sqlstate", SQLState(err)), slog.String("class", string(Class(err))))
	}
	t.log.LogAttrs(ctx, slog.LevelDebug, "postgres: "+msg, attrs...)
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}
