package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/itchyny/gojq"
)

// jqLimit ends an expression that goes on without end; the record is rejected.
const jqLimit = 2 * time.Second

// compileJQ compiles an expression. It sees the record alone: no environment, no files, no further input.
func compileJQ(text string) (*gojq.Code, error) {
	query, err := gojq.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("jq: %w", err)
	}
	code, err := gojq.Compile(query)
	if err != nil {
		return nil, fmt.Errorf("jq: %w", err)
	}
	return code, nil
}

const errJQ = badRecord("its jq expression fails") // what it says itself may hold values of the event

// runJQ returns the expression's first result for the record; numbers are a json.Number as long as the expression leaves them alone.
func runJQ(ctx context.Context, e *event, code *gojq.Code) (any, error) {
	if e.jqInput == nil {
		d := json.NewDecoder(bytes.NewReader(e.record))
		d.UseNumber()
		if err := d.Decode(&e.jqInput); err != nil {
			return nil, errJQ
		}
	}
	ctx, cancel := context.WithTimeout(ctx, jqLimit)
	defer cancel()
	v, ok := code.RunWithContext(ctx, e.jqInput).Next()
	if !ok {
		return nil, nil
	}
	if _, failed := v.(error); failed {
		return nil, errJQ
	}
	return v, nil
}

// jqText is a jq expression that gives text.
type jqText struct{ code *gojq.Code }

func (x jqText) text(ctx context.Context, e *event) ([]byte, error) {
	v, err := runJQ(ctx, e, x.code)
	if err != nil {
		return nil, err
	}
	var text []byte
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		text = append([]byte{}, v...)
	case bool:
		text = strconv.AppendBool(nil, v)
	case json.Number:
		text = []byte(v)
	case int:
		text = strconv.AppendInt(nil, int64(v), 10)
	case *big.Int:
		text = v.Append(nil, 10)
	case float64:
		if text, err = gojq.Marshal(v); err != nil {
			return nil, errJQ
		}
	default:
		return nil, badRecord("its jq expression gives an object or an array")
	}
	if !isStorable(text) {
		return nil, badRecord("its jq expression gives bytes that are not text")
	}
	return text, nil
}

// jqDetails sets details to what a jq expression gives.
func jqDetails(ctx context.Context, e *event, code *gojq.Code) error {
	v, err := runJQ(ctx, e, code)
	if err != nil || v == nil {
		return err
	}
	text, err := gojq.Marshal(v)
	if err != nil {
		return errJQ
	}
	start := len(e.scratch)
	out, err := e.canon.Append(e.scratch, text)
	if err != nil {
		return badRecord("its jq expression gives JSON that cannot be stored")
	}
	e.scratch, e.details = out, out[start:len(out):len(out)]
	return nil
}

// isStorable tells text that a column can hold.
func isStorable(text []byte) bool { return utf8.Valid(text) && bytes.IndexByte(text, 0) < 0 }
