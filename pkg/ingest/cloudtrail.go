package ingest

import (
	"bytes"
	"context"
)

// cloudTrail maps AWS CloudTrail records (https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html).
// details is the whole record. Fields are read from its canonical text, which is valid and has each key once: what is indexed is what
// is stored.
type cloudTrail struct{}

func (cloudTrail) mapRecord(_ context.Context, e *event, rec []byte) error {
	if err := e.takeWhole(rec); err != nil {
		return err
	}
	e.details = e.record
	var f trailFields
	f.read(e)
	return f.fill(e)
}

// trailFields are the values of one record that columns are made of; nil for absent, null and empty ones.
type trailFields struct {
	eventTime, eventSource, eventName, eventID, requestID, sharedEventID, recipient []byte
	errorCode, errorMessage                                                         []byte
	arn, principalID, invokedBy, accountID                                          []byte
	resourceType, resourceARN                                                       []byte
	consoleLogin                                                                    []byte
}

func (f *trailFields) read(e *event) {
	for key, value := range canonicalMembers(e.details) {
		switch string(key) {
		case "eventTime":
			f.eventTime = e.scalar(value)
		case "eventSource":
			f.eventSource = e.scalar(value)
		case "eventName":
			f.eventName = e.scalar(value)
		case "eventID":
			f.eventID = e.scalar(value)
		case "requestID":
			f.requestID = e.scalar(value)
		case "sharedEventID":
			f.sharedEventID = e.scalar(value)
		case "recipientAccountId":
			f.recipient = e.scalar(value)
		case "errorCode":
			f.errorCode = e.scalar(value)
		case "errorMessage":
			f.errorMessage = e.scalar(value)
		case "userIdentity":
			f.readIdentity(e, value)
		case "resources":
			f.readResource(e, value)
		case "responseElements":
			for key, value := range canonicalMembers(value) {
				if string(key) == "ConsoleLogin" {
					f.consoleLogin = e.scalar(value)
				}
			}
		}
	}
}

func (f *trailFields) readIdentity(e *event, identity []byte) {
	for key, value := range canonicalMembers(identity) {
		switch string(key) {
		case "arn":
			f.arn = e.scalar(value)
		case "principalId":
			f.principalID = e.scalar(value)
		case "invokedBy":
			f.invokedBy = e.scalar(value)
		case "accountId":
			f.accountID = e.scalar(value)
		}
	}
}

func (f *trailFields) readResource(e *event, resources []byte) {
	if len(resources) < 2 || resources[0] != '[' {
		return
	}
	first := resources[1:]
	for key, value := range canonicalMembers(first) {
		switch string(key) {
		case "type":
			f.resourceType = e.scalar(value)
		case "ARN":
			f.resourceARN = e.scalar(value)
		}
	}
}

func (f *trailFields) fill(e *event) error {
	switch {
	case f.eventTime == nil:
		return badRecord("eventTime is missing")
	case f.eventSource == nil:
		return badRecord("eventSource is missing")
	case f.eventName == nil:
		return badRecord("eventName is missing")
	}
	var err error
	if e.micros, err = parseTimestamp(f.eventTime, nil); err != nil {
		return err
	}
	e.hasTime = true
	e.text[colPrincipal] = coalesce(f.arn, f.principalID, f.invokedBy, f.accountID)
	e.text[colOrganization] = coalesce(f.recipient, f.accountID)
	e.text[colAction] = e.join(bytes.TrimSuffix(f.eventSource, []byte(".amazonaws.com")), ":", f.eventName)
	e.text[colTargetType], e.text[colTarget] = f.resourceType, f.resourceARN
	e.text[colCorrelation] = coalesce(f.sharedEventID, f.requestID)
	e.text[colEventUID] = f.eventID
	switch {
	case f.errorCode != nil && f.errorMessage != nil:
		e.text[colOutcome] = e.join(f.errorCode, ": ", f.errorMessage)
	default:
		e.text[colOutcome] = coalesce(f.errorCode, f.errorMessage)
	}
	e.text[colStatus] = []byte("success")
	if f.errorCode != nil || string(f.consoleLogin) == "Failure" {
		e.text[colStatus] = []byte("failure")
	}
	return nil
}

func coalesce(values ...[]byte) []byte {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

// join writes a, sep and b into the event's scratch memory.
func (e *event) join(a []byte, sep string, b []byte) []byte {
	start := len(e.scratch)
	e.scratch = append(append(append(e.scratch, a...), sep...), b...)
	return e.scratch[start:len(e.scratch):len(e.scratch)]
}
