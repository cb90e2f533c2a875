// Package alert tells people and machines what health has found: Alertmanager, and one webhook. It remembers what it has said, so that nothing is
// said twice, what is well again is said once, and what goes to and fro is silenced.
package alert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"auditdb/internal/fault"
)

// Severity is how bad it is.
type Severity string

// The severities.
const (
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Alert is one thing that is not well, or well again. It holds no row's values and no secrets.
type Alert struct {
	Check    string    `json:"check"`
	Group    string    `json:"group"`
	Severity Severity  `json:"severity"`
	Summary  string    `json:"summary"`
	Hint     string    `json:"hint"`
	Since    time.Time `json:"since"`
}

// Notice is what goes out at one moment about one database.
type Notice struct {
	Instance string // host:port/database
	Firing   []Alert
	New      []Alert // of Firing: those that nobody was told of yet, or that have become worse
	Resolved []Alert
	Flapping []string // checks that go to and fro, which are silenced from now on
	At       time.Time
	Next     time.Duration // when the next notice is due at the latest
}

// Target is where notices go.
type Target interface {
	// Name names it without secrets.
	Name() string
	Send(ctx context.Context, n Notice) error
}

const (
	history  = time.Hour        // in which changes are counted
	flaps    = 6                // changes within it that make a check flap
	calm     = 15 * time.Minute // without a change that end it
	reminder = 4 * time.Hour    // after which what still fires is said again
)

// State is what was said before.
type State struct {
	Checks map[string]*Said `json:"checks"`
}

// Said is what was said of one check.
type Said struct {
	Alert
	Firing   bool        `json:"firing"`
	Told     time.Time   `json:"told"`    // when it was last said; zero: never
	Changes  []time.Time `json:"changes"` // of Firing and Severity within the last hour
	Flapping bool        `json:"flapping"`
}

// Notice compares what fires now with what was said. looked are the checks that were made: only they can be well again. It changes the state as if the
// notice arrived; keep the state only when it did.
func (s *State) Notice(instance string, firing []Alert, looked []string, now time.Time, next time.Duration) Notice {
	if s.Checks == nil {
		s.Checks = map[string]*Said{}
	}
	n := Notice{Instance: instance, At: now, Next: next}
	for _, a := range firing {
		said := s.Checks[a.Check]
		if said == nil {
			said = &Said{}
			s.Checks[a.Check] = said
		}
		worse := said.Firing && said.Severity != a.Severity
		if !said.Firing {
			said.Since = now
		}
		if !said.Firing || worse {
			said.Changes = append(said.Changes, now)
			said.Told = time.Time{}
		}
		a.Since = said.Since
		said.Alert, said.Firing = a, true
		s.settle(said, now, &n)
		if !said.Flapping {
			n.Firing = append(n.Firing, a)
			if said.Told.IsZero() || now.Sub(said.Told) >= reminder {
				n.New = append(n.New, a)
				said.Told = now
			}
		}
	}
	for _, name := range looked {
		said := s.Checks[name]
		if said == nil || slices.ContainsFunc(firing, func(a Alert) bool { return a.Check == name }) {
			continue
		}
		if said.Firing {
			said.Firing = false
			said.Changes = append(said.Changes, now)
		}
		s.settle(said, now, &n)
		if !said.Flapping && !said.Told.IsZero() {
			n.Resolved = append(n.Resolved, said.Alert)
			said.Told = time.Time{}
		}
		if !said.Firing && len(said.Changes) == 0 && said.Told.IsZero() {
			delete(s.Checks, name)
		}
	}
	return n
}

// settle forgets old changes, and says whether the check flaps.
func (s *State) settle(said *Said, now time.Time, n *Notice) {
	said.Changes = slices.DeleteFunc(said.Changes, func(at time.Time) bool { return now.Sub(at) > history })
	was := said.Flapping
	switch {
	case len(said.Changes) >= flaps:
		said.Flapping = now.Sub(said.Changes[len(said.Changes)-1]) < calm
	case was:
		said.Flapping = len(said.Changes) > 0 && now.Sub(said.Changes[len(said.Changes)-1]) < calm
	}
	if said.Flapping && !was {
		n.Flapping = append(n.Flapping, said.Check)
	}
}

// Quiet says whether there is nothing to say that was not said before.
func (n Notice) Quiet() bool { return len(n.New)+len(n.Resolved)+len(n.Flapping) == 0 }

// Text words what is new, for people.
func (n Notice) Text() string {
	var lines []string
	for _, a := range n.New {
		line := fmt.Sprintf("%s %s: %s", strings.ToUpper(string(a.Severity)), a.Check, a.Summary)
		if a.Hint != "" {
			line += " → " + a.Hint
		}
		lines = append(lines, line)
	}
	for _, a := range n.Resolved {
		lines = append(lines, "OK again: "+a.Check)
	}
	for _, check := range n.Flapping {
		lines = append(lines, fmt.Sprintf("%s goes to and fro: silent until it has been the same for %s", check, calm))
	}
	return "auditdb on " + n.Instance + "\n" + strings.Join(lines, "\n")
}

// SendAll sends a notice to all targets side by side. The error names those that it did not reach.
func SendAll(ctx context.Context, targets []Target, n Notice) error {
	failed := make(chan error)
	for _, t := range targets {
		go func() {
			err := t.Send(ctx, n)
			if err != nil {
				err = fault.New(fault.Unavailable, "auditdb alert test tries all targets", "alert %s: %w", t.Name(), err)
			}
			failed <- err
		}()
	}
	var all []error
	for range targets {
		all = append(all, <-failed)
	}
	return errors.Join(all...)
}
