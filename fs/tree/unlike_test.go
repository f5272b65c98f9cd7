package tree

import (
	"context"
	"errors"
	iofs "io/fs"
	"slices"
	"strings"
	"testing"
)

// TestUnlike: a name that cannot be looked up now does not hide what became of the
// others, and a directory that may be the same is never named.
func TestUnlike(t *testing.T) {
	broken := errors.New("input/output error")
	sign := func(signs map[string]string) func(context.Context, string) (string, error) {
		return func(_ context.Context, name string) (string, error) {
			switch s := signs[name]; s {
			case "":
				return "", iofs.ErrNotExist
			case signUnknown:
				return "", broken
			default:
				return s, nil
			}
		}
	}
	names := strings.Fields("same changed went came broken mended dir brokendir mendeddir new")
	before, err := signAll(t.Context(), names, sign(map[string]string{"same": "1", "changed": "1", "went": "1", "broken": "1", "mended": signUnknown,
		"dir": signDir, "brokendir": signDir, "mendeddir": signUnknown}))
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	after, err := signAll(t.Context(), names, sign(map[string]string{"same": "1", "changed": "2", "came": "1", "broken": signUnknown, "mended": "1",
		"dir": signDir, "brokendir": signUnknown, "mendeddir": signDir, "new": signDir}))
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	for _, c := range []struct {
		before map[string]string
		want   string
	}{{before, "broken came changed mended new went"}, {nil, "came changed mended same"}} {
		got := unlike(c.before, after)
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q, want %s", got, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m, err := signAll(ctx, names, sign(before)); m != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", m, err)
	}
}
