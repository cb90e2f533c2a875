// Package sample generates a deterministic stream of realistic audit events, for the demo and the benchmarks.
//
// The same options give the same bytes on every machine. Principals, organizations and actions are skewed as in real
// logs (a Zipf distribution), events come in time order with short bursts, and each carries JSON details.
package sample

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"time"
)

// Options say what to generate.
type Options struct {
	Seed     uint64
	Events   int
	From, To time.Time // the events lie in this half-open range, ascending
}

// action is one kind of event: what is done, to which kind of resource, and under which classification.
type action struct {
	name, resource, classification string
	failures                       int // failures in 1,000
}

const (
	principals    = 5000
	organizations = 40
	resources     = 20000
)

// generator holds what one stream needs; its slices are read only.
type generator struct {
	rnd                         *rand.Rand
	actions                     []action
	principal, org, act, object *rand.Zipf
	regions, agents             []string
}

func newGenerator(seed uint64) *generator {
	g := &generator{
		rnd: rand.New(rand.NewPCG(seed, 0x61756469746462)), //nolint:gosec // reproducible sample data, no secret
		actions: []action{
			{"record.read", "patient_record", "PHI", 4},
			{"session.login", "session", "INTERNAL", 60},
			{"document.view", "document", "CONFIDENTIAL", 6},
			{"record.update", "patient_record", "PHI", 9},
			{"api.call", "api_endpoint", "INTERNAL", 25},
			{"session.logout", "session", "INTERNAL", 0},
			{"report.export", "report", "CONFIDENTIAL", 12},
			{"user.invite", "user", "INTERNAL", 15},
			{"permission.grant", "role", "CONFIDENTIAL", 20},
			{"key.rotate", "api_key", "RESTRICTED", 3},
			{"record.delete", "patient_record", "PHI", 30},
			{"page.publish", "page", "PUBLIC", 5},
		},
		regions: []string{"eu-west-1", "eu-central-1", "us-east-1", "ap-south-1"},
		agents:  []string{"web/5.2.1", "ios/4.9.0", "android/4.9.2", "sync-agent/1.14", "cli/0.31"},
	}
	g.principal = rand.NewZipf(g.rnd, 1.2, 4, principals-1)
	g.org = rand.NewZipf(g.rnd, 1.3, 2, organizations-1)
	g.act = rand.NewZipf(g.rnd, 1.1, 2, uint64(len(g.actions)-1)) //nolint:gosec // there are some
	g.object = rand.NewZipf(g.rnd, 1.05, 20, resources-1)
	return g
}

// WriteNDJSON writes the events as native NDJSON, about 420 bytes each.
func WriteNDJSON(w io.Writer, o Options) error {
	if o.Events <= 0 || !o.From.Before(o.To) {
		return fmt.Errorf("sample: nothing to generate: %d events from %s to %s", o.Events, o.From, o.To)
	}
	bw := bufio.NewWriterSize(w, 1<<16)
	g := newGenerator(o.Seed)
	span := o.To.Sub(o.From).Microseconds()
	step := float64(span) / float64(o.Events)
	var line []byte
	for i := range o.Events {
		// The i-th event lies in the i-th slice of the range, so the stream ascends without being regular.
		offset := int64((float64(i) + g.rnd.Float64()*0.999) * step)
		line = g.appendEvent(line[:0], i, o.From.Add(time.Duration(offset)*time.Microsecond))
		if _, err := bw.Write(line); err != nil {
			return err
		}
	}
	return bw.Flush()
}

func (g *generator) appendEvent(b []byte, i int, at time.Time) []byte {
	a := g.actions[g.act.Uint64()]
	who, org := g.principal.Uint64(), g.org.Uint64()
	status, outcome := "success", ""
	if g.rnd.IntN(1000) < a.failures {
		status, outcome = "failure", "denied by policy"
	}
	b = append(b, `{"timestamp":"`...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = fmt.Appendf(b, `","action":%q,"status":%q,"principal_id":"user-%05d","organization_id":"org-%02d"`, a.name, status, who, org)
	b = fmt.Appendf(b, `,"target_resource_type":%q,"target_resource_id":"%s-%d"`, a.resource, a.resource, g.object.Uint64())
	if outcome != "" {
		b = fmt.Appendf(b, `,"outcome_description":%q`, outcome)
	}
	b = fmt.Appendf(b, `,"correlation_id":"%08x%08x","event_uid":"ev-%d","data_classification":%q`, g.rnd.Uint32(), g.rnd.Uint32(), i, a.classification)
	b = g.appendDetails(append(b, `,"details":`...), who)
	return append(b, '}', '\n')
}

func (g *generator) appendDetails(b []byte, who uint64) []byte {
	b = fmt.Appendf(b, `{"ip":"10.%d.%d.%d","agent":%q,"region":%q,"duration_ms":`, who%256, who/256, 1+g.rnd.IntN(250), g.agents[g.rnd.IntN(len(g.agents))], g.regions[who%4])
	b = strconv.AppendFloat(b, float64(g.rnd.IntN(90000))/100, 'f', 2, 64)
	if g.rnd.IntN(4) == 0 {
		b = fmt.Appendf(b, `,"request":{"bytes":%d,"mfa":%t}`, g.rnd.IntN(1<<20), g.rnd.IntN(3) > 0)
	}
	return append(b, '}')
}
