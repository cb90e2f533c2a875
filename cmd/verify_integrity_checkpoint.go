package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"auditdb/internal/fault"
	"auditdb/internal/postgres"
	"auditdb/pkg/integrity"
	"auditdb/pkg/integrity/anchors"
)

const (
	maxCheckpoint     = 1 << 20
	checkpointTimeout = 30 * time.Second
)

// readCheckpoints reads the checkpoints that the user named, and the verifier's own of its last run.
func readCheckpoints(ctx context.Context, app *App, sources []string) ([]integrity.External, error) {
	var out []integrity.External
	for _, source := range sources {
		text, err := readCheckpoint(ctx, source)
		if err != nil {
			return nil, fault.New(fault.Unavailable, "check the file or address", "read checkpoint %s: %w", postgres.RedactURL(source), err)
		}
		out = append(out, integrity.External{Source: postgres.RedactURL(source), Note: string(text)})
	}
	state := app.Config.Integrity.State
	if state == "" {
		return out, nil
	}
	note, err := anchors.ReadState(ctx, state)
	if err != nil && fault.ClassOf(err) == "" {
		err = fault.New(fault.Unavailable, "check integrity.state", "read the checkpoint of the last run: %w", err)
	}
	if err != nil || note == "" {
		return out, err
	}
	return append(out, integrity.External{Source: postgres.RedactURL(state), Note: note, LastSeen: true}), nil
}

func isAddress(source string) bool {
	return strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")
}

func readCheckpoint(ctx context.Context, source string) ([]byte, error) {
	if !isAddress(source) {
		f, err := os.Open(source)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		return readBounded(f)
	}
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, errors.New("malformed address")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text repeats the address with what is secret in it
			err = u.Err
		}
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %s", resp.Status)
	}
	return readBounded(resp.Body)
}

func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxCheckpoint+1))
	if err == nil && len(text) > maxCheckpoint {
		err = fmt.Errorf("more than %d bytes", maxCheckpoint)
	}
	return text, err
}

// rememberCheckpoint keeps the newest checkpoint for the next run, when this one found nothing wrong.
func rememberCheckpoint(ctx context.Context, app *App, r *integrity.Report) error {
	state := app.Config.Integrity.State
	if state == "" || !r.OK || r.Checkpoint == nil {
		return nil
	}
	err := anchors.WriteState(ctx, state, r.Checkpoint.Note)
	if err != nil && fault.ClassOf(err) == "" {
		err = fault.New(fault.Unavailable, "check integrity.state", "keep the checkpoint for the next run: %w", err)
	}
	return err
}
