package config

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span, written as 10s, 5m or 1h30m.
type Duration time.Duration

// UnmarshalTOML implements toml.Unmarshaler. 0 would be the default, which nobody
// means who writes it.
func (d *Duration) UnmarshalTOML(v any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("%v is no time span: write for example \"10s\" or \"5m\"", v)
	}
	err := d.UnmarshalText([]byte(text))
	if err == nil && *d == 0 {
		err = fmt.Errorf("%q is not above 0: write for example 10s, or nothing for the default", text)
	}
	return err
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no time span: write for example 10s or 5m", b)
	}
	*d = Duration(v)
	return nil
}

// String writes d as it is read.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Size is a number of bytes, written as 512MiB, 20GiB, 1TiB, 10GB or plain bytes.
type Size int64

var units = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	for _, u := range units {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		var n int64
		number = strings.TrimSpace(number)
		if _, err := fmt.Sscanf(number, "%d", &n); err != nil || fmt.Sprint(n) != number || n < 0 || n > (1<<62)/u.factor {
			break
		}
		*s = Size(n * u.factor)
		return nil
	}
	return fmt.Errorf("%q is no size: write for example 20GiB", text)
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(strconv.FormatInt(int64(s), 10)), nil }

// Bound is a number above 0, or -1 for none. In memory 0 is the default.
type Bound int64

// UnmarshalTOML implements toml.Unmarshaler.
func (b *Bound) UnmarshalTOML(v any) error {
	n, ok := v.(int64)
	if !ok || n == 0 || n < -1 {
		return fmt.Errorf("%v is no bound: write a whole number above 0, -1 for none, or nothing for the default", v)
	}
	*b = Bound(n)
	return nil
}

// Texts is a list, of which a single one may be written as a text.
type Texts []string

// UnmarshalTOML implements toml.Unmarshaler.
func (d *Texts) UnmarshalTOML(v any) error {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	*d = nil
	for _, v := range list {
		text, ok := v.(string)
		if !ok || text == "" {
			return fmt.Errorf("%v is no text: write \"ONE\" or [\"ONE\", \"OTHER\"]", v)
		}
		*d = append(*d, text)
	}
	return nil
}

// List is read as Texts are, and shown as a list also if it has one entry.
type List []string

// UnmarshalTOML implements toml.Unmarshaler.
func (l *List) UnmarshalTOML(v any) error { return (*Texts)(l).UnmarshalTOML(v) }

// UnmarshalJSON implements json.Unmarshaler: what a daemon of an earlier version
// hands to this one may have a text where there is a list now.
func (d *Texts) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if v == nil || v == "" {
		*d = nil
		return nil
	}
	return d.UnmarshalTOML(v)
}

// MarshalText implements encoding.TextMarshaler.
func (r Refresh) MarshalText() ([]byte, error) {
	if r == 0 {
		return []byte("auto"), nil
	}
	return []byte(time.Duration(r).String()), nil
}
