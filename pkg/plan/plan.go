// Package plan holds what a command is going to do to a database, so that it can be shown, confirmed, digested and applied.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Step is one unit of work. SQL is the statement shape as it will run, never row values.
type Step struct {
	Name        string `json:"name"`   // the object it is about, e.g. the partition's qualified name
	SQL         string `json:"sql"`    // statements joined by ";\n"
	Reason      string `json:"reason"` // why, for a person
	NoTx        bool   `json:"-"`      // …CONCURRENTLY: cannot run inside a transaction
	Destructive bool   `json:"-"`      // loses data: needs confirmation, and must not differ from what was confirmed
	Group       string `json:"-"`      // neighbours of the same group are given to the executor together; "": alone
	Op          any    `json:"-"`      // what the plan's maker needs again to apply the step; neither shown nor digested
}

// Skip is an object that was looked at and left alone.
type Skip struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Plan is what one command will do to one database, in order.
type Plan struct {
	Action  string
	AsOf    time.Time
	Steps   []Step
	Skipped []Skip

	KeepGoing bool // a group that fails does not stop those after it
}

// Digest identifies the steps: two plans with the same digest do the same thing. AsOf and reasons do not count.
func (p Plan) Digest() string {
	h := sha256.New()
	h.Write([]byte(p.Action + "\n"))
	for _, s := range p.Steps {
		h.Write([]byte(s.Name + "\x00" + s.SQL + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

type stepJSON struct {
	Step
	Transactional bool `json:"transactional"`
}

// MarshalJSON writes the contract's plan object: digest, steps and skipped, empty lists as [].
func (p Plan) MarshalJSON() ([]byte, error) {
	steps := make([]stepJSON, 0, len(p.Steps))
	for _, s := range p.Steps {
		steps = append(steps, stepJSON{Step: s, Transactional: !s.NoTx})
	}
	skipped := p.Skipped
	if skipped == nil {
		skipped = []Skip{}
	}
	return json.Marshal(struct {
		Digest  string     `json:"digest"`
		Steps   []stepJSON `json:"steps"`
		Skipped []Skip     `json:"skipped"`
	}{p.Digest(), steps, skipped})
}
