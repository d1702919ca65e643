package buildlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/strata-nix/strata/activity"
)

// prefix marks a structured message.
const prefix = "@nix "

// maxStarted is how many activities of one builder are open at once; more are
// not shown.
const maxStarted = 1024

// errField says that something of a message is not what it has to be.
var errField = errors.New("not the field that belongs there")

// message is a structured message, in the keys of upstream's JSON logger.
type message struct {
	Action string          `json:"action"`
	ID     uint64          `json:"id"`
	Level  *uint64         `json:"level"`
	Type   *uint64         `json:"type"`
	Text   *string         `json:"text"`
	Fields json.RawMessage `json:"fields"`
	Phase  *string         `json:"phase"`
	Msg    *string         `json:"msg"`
}

// message does what a line says that is a structured message, and tells whether
// it was one.
func (l *Lines) message(line []byte) bool {
	text, ok := bytes.CutPrefix(line, []byte(prefix))
	if !ok {
		return false
	}
	if !json.Valid(text) {
		activity.Logf(l.ctx, activity.Error, "bad JSON log message from the derivation builder: %.200q", text)
		return false
	}
	var m message
	err := json.Unmarshal(text, &m)
	if err == nil {
		err = l.obey(&m)
	}
	if err != nil {
		activity.Warnf(l.ctx, "Unable to handle a JSON message from the derivation builder: %v", err)
	}
	return err == nil
}

func (l *Lines) obey(m *message) error {
	switch m.Action {
	case "start":
		return l.start(m)
	case "stop":
		if act, ok := l.started[m.ID]; ok {
			act.Stop()
			delete(l.started, m.ID)
		}
	case "result":
		act, ok := l.started[m.ID]
		if !ok {
			return nil
		}
		fields, err := m.fields()
		if err != nil || m.Type == nil {
			return cmpErr(err, "type")
		}
		act.Result(activity.ResultType(*m.Type), fields...)
	case "setPhase":
		if m.Phase == nil {
			return cmpErr(nil, "phase")
		}
		l.act.Result(activity.SetPhase, activity.Text(*m.Phase))
	case "msg":
		if m.Msg == nil || m.Level == nil {
			return cmpErr(nil, "msg")
		}
		activity.Logf(l.ctx, activity.Level(*m.Level), "%s", *m.Msg)
	case "":
		return cmpErr(nil, "action")
	}
	return nil
}

func (l *Lines) start(m *message) error {
	fields, err := m.fields()
	if err != nil || m.Type == nil || m.Level == nil || m.Text == nil {
		return cmpErr(err, "type, level or text")
	}
	kind := activity.Type(*m.Type)
	if !l.trust && kind != activity.FileTransfer || l.started[m.ID] != nil || len(l.started) >= maxStarted {
		return nil
	}
	_, act := activity.Start(l.ctx, activity.Level(*m.Level), kind, *m.Text, fields...)
	l.started[m.ID] = act
	return nil
}

// cmpErr is err, or that a field is missing.
func cmpErr(err error, field string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %s", errField, field)
}

// fields are the values of a message: numbers that are not negative, and texts.
func (m *message) fields() ([]activity.Field, error) {
	if len(m.Fields) == 0 {
		return nil, nil
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(m.Fields, &raw); err != nil {
		return nil, err
	}
	fields := make([]activity.Field, len(raw))
	for i, r := range raw {
		f := &fields[i]
		if r[0] == '"' {
			f.IsText = true
			if err := json.Unmarshal(r, &f.Text); err != nil {
				return nil, err
			}
		} else if err := json.Unmarshal(r, &f.Int); err != nil {
			return nil, fmt.Errorf("%w: %.100s", errField, r)
		}
	}
	return fields, nil
}
