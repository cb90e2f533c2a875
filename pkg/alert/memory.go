package alert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ReadState reads what was said before from a file; one that is not there, or damaged, is nothing said yet.
func ReadState(file string) (*State, error) {
	s := &State{Checks: map[string]*Said{}}
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return s, fmt.Errorf("read what was alerted before: %w", err)
	}
	if damaged := json.Unmarshal(text, s); damaged != nil || s.Checks == nil {
		s = &State{Checks: map[string]*Said{}}
	}
	for name, said := range s.Checks {
		if said == nil {
			delete(s.Checks, name)
		}
	}
	return s, nil
}

// Keep replaces the file: readers see the old state or the new one.
func (s *State) Keep(file string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("keep what was alerted: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keep what was alerted: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".alerts-*")
	if err != nil {
		return fmt.Errorf("keep what was alerted: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it may be gone already
		return fmt.Errorf("keep what was alerted: %w", err)
	}
	return nil
}

// Copy is a state of its own.
func (s *State) Copy() (*State, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("copy what was alerted: %w", err)
	}
	other := &State{}
	return other, json.Unmarshal(text, other)
}
