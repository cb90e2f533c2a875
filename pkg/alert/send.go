package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/template"
	"time"

	"auditdb/internal/breaker"
	"auditdb/internal/fault"
)

const (
	tries     = 4
	firstWait = 300 * time.Millisecond
	tryLimit  = 5 * time.Second
	allLimit  = 20 * time.Second
)

// poster posts JSON, again where that may help.
type poster struct {
	client *http.Client
	url    string // secret: services put tokens into its path
	host   string
	wait   time.Duration // before the second try
}

func newPoster(address, what string) (*poster, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fault.New(fault.Config, "write http://… or https://…", "%s is no web address", what)
	}
	return &poster{client: &http.Client{Timeout: tryLimit, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, url: address, host: u.Host, wait: firstWait}, nil
}

// post sends body until it is taken, it is refused for good, or the time is over.
func (p *poster) post(ctx context.Context, body []byte, header http.Header) error {
	ctx, cancel := context.WithTimeout(ctx, allLimit)
	defer cancel()
	var err error
	for try := range tries {
		if try > 0 {
			pause := time.NewTimer(p.wait<<(try-1) + time.Duration(rand.Int64N(int64(p.wait)))) //nolint:gosec // spreads tries, keeps no secret
			select {
			case <-ctx.Done():
				pause.Stop()
				return err
			case <-pause.C:
			}
		}
		var answer *breaker.StatusError
		if err = p.once(ctx, body, header); err == nil || errors.As(err, &answer) && !breaker.Gone(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (p *poster) once(ctx context.Context, body []byte, header http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("the address cannot be used") // the error would show it
	}
	req.Header = header.Clone()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "auditdb")
	r, err := p.client.Do(req)
	if err != nil {
		var u *url.Error // shows the address
		if errors.As(err, &u) {
			err = u.Err
		}
		return err
	}
	defer func() { _ = r.Body.Close() }()
	_, _ = io.CopyN(io.Discard, r.Body, 1<<16) // so that the connection can be used again
	if r.StatusCode < 300 {
		return nil
	}
	return &breaker.StatusError{Code: r.StatusCode, Status: r.Status}
}

// Alertmanager sends to Alertmanager's API, version 2. What fires is sent each time, as Prometheus does; Alertmanager groups and deduplicates it.
type Alertmanager struct{ *poster }

// NewAlertmanager takes the address of an Alertmanager, e.g. http://localhost:9093.
func NewAlertmanager(address string) (*Alertmanager, error) {
	p, err := newPoster(address, "alerts.alertmanager")
	if err != nil {
		return nil, err
	}
	p.url = strings.TrimSuffix(address, "/") + "/api/v2/alerts"
	return &Alertmanager{p}, nil
}

// Name names it.
func (a *Alertmanager) Name() string { return "alertmanager " + a.host }

// posted is an alert as Alertmanager takes it. The labels identify it: nothing in them changes while it fires.
type posted struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

// Send sends all that fires, and the end of what is well again.
func (a *Alertmanager) Send(ctx context.Context, n Notice) error {
	list := []posted{}
	add := func(al Alert, ends time.Time) {
		list = append(list, posted{
			Labels:      map[string]string{"alertname": "auditdb_" + al.Check, "check": al.Check, "group": al.Group, "severity": string(al.Severity), "instance": n.Instance, "service": "auditdb"},
			Annotations: map[string]string{"summary": al.Summary, "description": al.Hint},
			StartsAt:    al.Since, EndsAt: ends,
		})
	}
	for _, al := range n.Firing {
		add(al, n.At.Add(3*n.Next)) // it ends by itself where nobody looks any more
		other := al
		other.Severity = map[Severity]Severity{Warning: Critical, Critical: Warning}[al.Severity]
		if al.Since.Before(n.At) {
			add(other, n.At)
		}
	}
	for _, al := range n.Resolved {
		add(al, n.At)
	}
	if len(list) == 0 {
		return nil
	}
	body, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("write the alerts: %w", err)
	}
	return a.post(ctx, body, http.Header{})
}

// Webhook sends what is new to one address, in a form of one's own or in one that Slack understands too.
type Webhook struct {
	*poster
	secret   string
	template *template.Template
}

// Document is what a webhook gets, and what its template works on: auditdb.alert.v1.
type Document struct {
	Schema   string    `json:"schema"`
	Text     string    `json:"text"` // for people; what Slack shows
	Status   string    `json:"status"`
	Instance string    `json:"instance"`
	Firing   []Alert   `json:"firing"`
	New      []Alert   `json:"new"`
	Resolved []Alert   `json:"resolved"`
	Flapping []string  `json:"flapping"`
	At       time.Time `json:"at"`
}

// NewWebhook takes the address, the secret that bodies are signed with ("": not at all), and a template of text/template that makes a JSON document of a
// Document ("": the document itself). In it {{json .}} writes any part as JSON.
func NewWebhook(address, secret, text string) (*Webhook, error) {
	p, err := newPoster(address, "alerts.webhook.url")
	if err != nil {
		return nil, err
	}
	w := &Webhook{poster: p, secret: secret}
	if text == "" {
		return w, nil
	}
	w.template, err = template.New("webhook").Option("missingkey=error").Funcs(template.FuncMap{"json": toJSON}).Parse(text)
	if err != nil {
		return nil, fault.New(fault.Config, `it is a template of Go's text/template, e.g. {"text": {{json .Text}}}`, "alerts.webhook.template: %w", err)
	}
	return w, nil
}

func toJSON(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

// Name names it by its host alone.
func (w *Webhook) Name() string { return "webhook " + w.host }

// Signature is what the header X-Auditdb-Signature holds: "sha256=" and the HMAC-SHA256 in hex of the time of X-Auditdb-Timestamp, a dot and the body.
func Signature(secret, timestamp string, body []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(timestamp + "."))
	h.Write(body)
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// Send sends what is new; nothing is sent otherwise.
func (w *Webhook) Send(ctx context.Context, n Notice) error {
	if n.Quiet() {
		return nil
	}
	body, err := w.body(n)
	if err != nil {
		return err
	}
	header := http.Header{}
	if w.secret != "" {
		at := strconv.FormatInt(n.At.Unix(), 10)
		header.Set("X-Auditdb-Timestamp", at)
		header.Set("X-Auditdb-Signature", Signature(w.secret, at, body))
	}
	return w.post(ctx, body, header)
}

func (w *Webhook) body(n Notice) ([]byte, error) {
	d := Document{
		Schema: "auditdb.alert.v1", Text: n.Text(), Status: "ok", Instance: n.Instance, At: n.At,
		Firing: append([]Alert{}, n.Firing...), New: append([]Alert{}, n.New...), Resolved: append([]Alert{}, n.Resolved...), Flapping: append([]string{}, n.Flapping...),
	}
	for _, a := range n.Firing {
		if d.Status != string(Critical) {
			d.Status = string(a.Severity)
		}
	}
	if w.template == nil {
		return json.Marshal(d)
	}
	var b bytes.Buffer
	if err := w.template.Execute(&b, d); err != nil {
		return nil, fault.New(fault.Config, "", "alerts.webhook.template: %w", err)
	}
	if !json.Valid(b.Bytes()) {
		return nil, fault.New(fault.Config, `write values with {{json .Text}}`, "alerts.webhook.template: what it makes is no JSON")
	}
	return b.Bytes(), nil
}
