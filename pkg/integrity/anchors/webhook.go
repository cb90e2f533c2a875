package anchors

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"auditdb/internal/breaker"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
)

// callLimit bounds one request to a server.
const callLimit = 30 * time.Second

// webhook is an address that checkpoints are posted to as JSON.
type webhook struct{ address string }

// String names the host alone: services put secrets into the rest of an address.
func (w *webhook) String() string { return postgres.RedactURL(w.address) }

// Close does nothing.
func (w *webhook) Close() error { return nil }

// Newest cannot be told.
func (w *webhook) Newest(context.Context, int) ([]string, error) { return nil, ErrWriteOnly }

// Put posts the checkpoint.
func (w *webhook) Put(ctx context.Context, cp integrity.Checkpoint, _ bool) error {
	body, err := json.Marshal(cp)
	if err != nil {
		return err
	}
	_, err = call(ctx, http.MethodPost, w.address, "application/json", body)
	return err
}

// errNotThere says that an address has nothing.
var errNotThere = errors.New("not found")

// call makes a request and returns its answer. Errors do not repeat the address, which may hold secrets.
func call(ctx context.Context, method, address, contentType string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("malformed address")
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // everything was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxNote))
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return nil, errNotThere
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, &breaker.StatusError{Code: resp.StatusCode, Status: resp.Status}
	}
	return text, err
}
