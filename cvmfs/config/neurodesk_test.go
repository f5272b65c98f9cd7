package config

import (
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

func TestBuiltInRepository(t *testing.T) {
	keys, err := trust.ParseKeys([]byte(NeurodeskKey))
	if err != nil || len(keys) != 1 || keys[0].N.BitLen() != 2048 {
		t.Fatalf("the built-in key does not parse: %d keys, %v", len(keys), err)
	}
	for _, s := range NeurodeskServers() {
		if !strings.HasPrefix(s, "http://") || !strings.HasSuffix(s, "/cvmfs/@fqrn@") {
			t.Errorf("server %q", s)
		}
	}
}
