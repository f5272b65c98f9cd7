package config

import (
	"errors"
	"fmt"

	"github.com/BurntSushi/toml"
)

// misread says for people why a text could not be decoded.
func misread(text string, err error) error {
	var all map[string]any
	_, syntax := toml.Decode(text, &all)
	var where toml.ParseError
	_, single := all["source"].(map[string]any)
	switch {
	case syntax == nil && single:
		return errors.New("there may be several sources: write [[source]], not [source]")
	case !errors.As(err, &where):
		return err
	case syntax != nil: // the key is the one before
		return fmt.Errorf("line %d: %s", where.Position.Line, where.Message)
	}
	return fmt.Errorf("line %d (%s): %s", where.Position.Line, where.LastKey, where.Message)
}
