package launch

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// TestInside: only a container of that very image starts its commands natively.
func TestInside(t *testing.T) {
	const here, other = "APPTAINER_CONTAINER=" + testRootfs, "SINGULARITY_CONTAINER=/nd/.neurodeskfs/images/H2/rootfs"
	for name, test := range map[string]struct {
		nested bool
		env    string
		change func(c *Command)
		want   bool
	}{
		"the same image":    {true, here, func(*Command) {}, true},
		"by the older name": {true, "SINGULARITY_CONTAINER=" + testRootfs, func(*Command) {}, true},
		"another image":     {true, other, func(*Command) {}, false},
		"not in one":        {false, here, func(*Command) {}, false},
		"refused":           {true, here, func(c *Command) { c.Refused = "why" }, false},
		"no image":          {true, "APPTAINER_CONTAINER=", func(c *Command) { c.Rootfs = "" }, false},
	} {
		h, c := newHost(t), bet()
		h.Nested, h.Env = test.nested, append(h.Env, test.env)
		test.change(&c)
		if got := h.inside(c); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	h, c := newHost(t), bet()
	h.Nested, h.Env, c.Path, c.Command = true, append(h.Env, here), "", "no-such-command"
	var exit *Exit
	if err := Run(DefaultPolicy(), c, nil, h.Host, io.Discard); !errors.As(err, &exit) || exit.Code != StatusNotFound {
		t.Errorf("a command that is not there: %v", err)
	}
}

// TestBindsOfTheContainerAround: the runtime that made the container tells by *_BIND what it has bound, for people.
func TestBindsOfTheContainerAround(t *testing.T) {
	h := newHost(t)
	h.Env = append(h.Env, "APPTAINER_BIND=/outside/data:/in", "SINGULARITY_BIND=/outside/data", "APPTAINER_BINDPATH=/work/d:/mine")
	for _, nested := range []bool{false, true} {
		h.Nested = nested
		e := mustPlan(t, h, DefaultPolicy(), bet())
		if told := len(e.Warnings) > 0; told == nested || !strings.Contains(strings.Join(e.Argv, " "), "/work/d:/mine") {
			t.Errorf("nested %t: warnings %q, %q", nested, e.Warnings, e.Argv)
		}
	}
}
