package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"auditdb/internal/breaker"
	"auditdb/internal/fault"
	"auditdb/internal/output"
	"auditdb/internal/postgres"
	"auditdb/pkg/alert"
	"auditdb/pkg/health"
)

func alertDocuments() map[string]any { return map[string]any{"alert.test": alertTestDoc{}} }

// alertTestDoc is auditdb.alert.test.v1.
type alertTestDoc struct {
	Targets []alertTarget `json:"targets"`
}

type alertTarget struct {
	Target         string  `json:"target"` // without secrets
	OK             bool    `json:"ok"`
	Error          *string `json:"error"`
	ElapsedSeconds float64 `json:"elapsed_seconds"`
}

func newAlertCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "alert",
		Short:   "Where alerts of health --alert go",
		Long:    "health --alert tells Alertmanager (alerts.alertmanager) and one webhook (alerts.webhook.url) what it has found.",
		Example: "  auditdb alert test",
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "test",
		Short:   "Send a test alert to every target, and its end",
		Long:    "Sends an alert named test, and that it is over, to Alertmanager and the webhook, as far as they are configured. Exit 3 when one did not take it.",
		Example: "  auditdb alert test\n  auditdb alert test -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runAlertTest(cmd.Context(), app) },
	})
	return cmd
}

func runAlertTest(ctx context.Context, app *App) error {
	targets, err := app.alertTargets()
	if err != nil {
		return err
	}
	now := app.Now()
	test := alert.Alert{Check: "test", Group: "test", Severity: alert.Warning, Summary: "a test of auditdb's alerts: nothing is wrong", Since: now}
	doc := alertTestDoc{Targets: []alertTarget{}}
	failed := 0
	for _, t := range targets {
		began := app.Now()
		one := alertTarget{Target: t.Name()}
		for _, n := range []alert.Notice{
			{Instance: app.instance(), Firing: []alert.Alert{test}, New: []alert.Alert{test}, At: now, Next: alertNext},
			{Instance: app.instance(), Resolved: []alert.Alert{test}, At: now, Next: alertNext},
		} {
			if err = t.Send(ctx, n); err != nil {
				text := oneLine(err.Error())
				one.Error = &text
				break
			}
		}
		if one.OK = one.Error == nil; !one.OK {
			failed++
		}
		one.ElapsedSeconds = app.Now().Sub(began).Seconds()
		doc.Targets = append(doc.Targets, one)
	}
	if err := app.Emit("alert.test", doc, doc.print); err != nil {
		return err
	}
	if failed > 0 {
		return fault.New(fault.Unavailable, "look at the address in the configuration and at the receiver's log", "%s did not take the alert", countOf(failed, "target"))
	}
	return nil
}

func (d alertTestDoc) print(t *output.Table) {
	t.Header("target", "result", "took")
	for _, one := range d.Targets {
		result := any(output.Good("taken"))
		if one.Error != nil {
			result = output.Bad(*one.Error)
		}
		t.Row(one.Target, result, secondsCell(&one.ElapsedSeconds))
	}
}

// alertNext is when the next run is expected at the latest, where --watch does not say.
const alertNext = 5 * time.Minute

// alertTargets are those that are configured; none is an error.
func (a *App) alertTargets() (targets []alert.Target, err error) {
	c := a.Config.Alerts
	if c.Alertmanager != "" {
		t, err := alert.NewAlertmanager(c.Alertmanager)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	if c.WebhookURL != "" {
		t, err := alert.NewWebhook(c.WebhookURL, c.WebhookSecret, c.WebhookTemplate)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	if len(targets) == 0 {
		return nil, fault.New(fault.Config, "set alerts.alertmanager or alerts.webhook.url", "no target for alerts is configured")
	}
	return targets, nil
}

// instance names the database in alerts and must not change from run to run.
func (a *App) instance() string {
	if name := postgres.Instance(a.Config.Database.URL); name != "" {
		return name
	}
	return "unknown"
}

// alerter tells targets what health finds, and remembers what it has told.
type alerter struct {
	app     *App
	targets []alert.Target
	file    string
	next    time.Duration
	state   *alert.State
}

// guardedTarget is not asked for a while after it has failed again and again: a look at health would wait for it each time.
type guardedTarget struct {
	alert.Target
	breaker *breaker.Breaker
}

// Send sends, or says until when it does not.
func (g guardedTarget) Send(ctx context.Context, n alert.Notice) error {
	return g.breaker.Do(ctx, func(ctx context.Context) error { return g.Target.Send(ctx, n) })
}

func newAlerter(app *App, every time.Duration) (*alerter, error) {
	targets, err := app.alertTargets()
	if err != nil {
		return nil, err
	}
	for i, t := range targets {
		targets[i] = guardedTarget{t, app.guard(alertBreaker(t), false, true)}
	}
	a := &alerter{app: app, targets: targets, file: app.Config.Alerts.State, next: max(every, alertNext)}
	if a.file == "" {
		sum := sha256.Sum256([]byte(app.instance()))
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fault.New(fault.Config, "set alerts.state to a file", "there is no directory to remember alerts in: %w", err)
		}
		a.file = filepath.Join(dir, "auditdb", "alerts-"+hex.EncodeToString(sum[:6])+".json")
	}
	if a.state, err = alert.ReadState(a.file); err != nil {
		return nil, fault.New(fault.Config, "set alerts.state to a file of this user", "%w", err)
	}
	return a, nil
}

// tell sends what is new of a report. What did not arrive everywhere is told again next time.
func (a *alerter) tell(ctx context.Context, r health.Report) error {
	var firing []alert.Alert
	var looked []string
	for _, c := range r.Checks {
		severity := alert.Warning
		switch c.Status {
		case health.Critical:
			severity = alert.Critical
		case health.Warning:
		case health.OK:
			looked = append(looked, c.Name)
			continue
		default: // not known: nothing new
			continue
		}
		looked = append(looked, c.Name)
		firing = append(firing, alert.Alert{Check: c.Name, Group: c.Group, Severity: severity, Summary: c.Message, Hint: c.Hint})
	}
	before, err := a.state.Copy()
	if err != nil {
		return err
	}
	n := a.state.Notice(a.app.instance(), firing, looked, a.app.Now(), a.next)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), alertLimit) // --timeout may just have run out, which is what is to be told
	defer cancel()
	if err := alert.SendAll(ctx, a.targets, n); err != nil {
		a.state = before
		return fmt.Errorf("alerts were not delivered: %w", err)
	}
	return a.state.Keep(a.file)
}

const alertLimit = 30 * time.Second
