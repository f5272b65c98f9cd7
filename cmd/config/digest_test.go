package config

import (
	"strings"
	"testing"
)

// TestDigest: whatever makes another tree makes another digest.
func TestDigest(t *testing.T) {
	const base = "[[source]]\nkind = \"dir\"\npath = \"/images\"\n"
	seen := map[string]string{}
	for _, more := range []string{
		"", "[launch]\nnever = [\"this\"]\n", "[launch.pins]\nfsl = \"6.0\"\n", "[launch]\ngpu = \"off\"\n", "[launch]\nbinds = [\"/a\"]\n",
		"[app.\"fsl\"]\ncontain = true\n", "[mount]\ncrawlers = []\n", "[verify_sif]\nmode = \"warn\"\nkeyring = \"/k\"\n", "[[source]]\nkind = \"dir\"\npath = \"/more\"\n",
	} {
		c, err := Parse([]byte(base + more))
		if err != nil {
			t.Fatalf("%s: %v", more, err)
		}
		d := c.Digest()
		if other, ok := seen[d]; ok {
			t.Errorf("%q and %q have one digest", strings.TrimSpace(other), strings.TrimSpace(more))
		}
		seen[d] = more
	}
}
