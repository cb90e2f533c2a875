//go:build deps

// Package deps names modules that are about to be used, so that go.mod holds them.
package deps

import (
	_ "github.com/exaring/otelpgx"
	_ "github.com/hashicorp/golang-lru/v2"
	_ "github.com/johannesboyne/gofakes3"
	_ "github.com/maypok86/otter/v2"
	_ "github.com/parquet-go/parquet-go"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/prometheus/common/expfmt"
	_ "github.com/redis/go-redis/extra/redisotel/v9"
	_ "github.com/sony/gobreaker/v2"
	_ "github.com/wasilibs/go-pgquery"
	_ "go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	_ "go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	_ "go.opentelemetry.io/otel/sdk/trace"
	_ "gocloud.dev/blob/s3blob"
)
