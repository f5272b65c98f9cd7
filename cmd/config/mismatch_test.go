package config

import (
	"errors"
	"testing"
)

// TestValuesOfTheWrongType: none is passed over, and what is said of it is no Go.
func TestValuesOfTheWrongType(t *testing.T) {
	for text, want := range map[string]string{
		"[cache]\nquota = [\"1GiB\"]":   "line 2 (cache.quota): it is a list, and must be a text",
		"[cache]\ndir = 5":              "line 2 (cache.dir): it is a number, and must be a text",
		"[source]\nfqrn = \"a.b\"":      "line 1 (source): it is a table, and must be a list of tables, each of which begins with [[source]]",
		"source = \"a.b\"":              "line 1 (source): it is a text, and must be a list of tables, each of which begins with [[source]]",
		"[[source]]\nproxies = [\"x\"]": "line 2 (source.proxies): it is a list, and must be a text",
		"[[source]]\nrevision = \"5\"":  "line 2 (source.revision): it is a text, and must be a whole number",
		"[mount]\ncrawlers = \"x\"":     "line 2 (mount.crawlers): it is a text, and must be a list",
		"[mount]\ncheck_permissions=1":  "line 2 (mount.check_permissions): it is a number, and must be true or false",
		"cache = 5":                     "line 1 (cache): it is a number, and must be a table",
		"[app]\ngpu = \"on\"":           "line 2 (app.gpu): it is a text, and must be a table",
		"[launch.set]\nA = 5":           "line 2 (launch.set.A): it is a number, and must be a text",
		"[launch]\npins = \"fsl=6\"":    "launch.pins must be a table: write [launch.pins], and below it a line NAME = ... for each",
		"[launch]\nset = [\"A=5\"]":     "launch.set must be a table: write [launch.set], and below it a line NAME = ... for each",
		"app = \"fsl\"":                 "app must be a table: write [app], and below it a line NAME = ... for each",
		"[app.\"a.b\"]\nset = 5":        "app.\"a.b\".set must be a table: write [app.\"a.b\".set], and below it a line NAME = ... for each",
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrInvalid) || err.Error() != "configuration: "+want {
			t.Errorf("%q: %v", text, err)
		}
	}
}
