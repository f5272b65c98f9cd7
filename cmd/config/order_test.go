package config

import (
	"encoding/json"
	"reflect"
	"testing"
)

// TestConfigurationOutlivesItsFile: workers are handed the configuration as JSON,
// which must say the same.
func TestConfigurationOutlivesItsFile(t *testing.T) {
	for name, text := range map[string]string{
		"built-in": "",
		"much": `
cvmfs_at = "/cvmfs"
[cache]
dir = "/var/c"
quota = "3GiB"
[mount]
crawlers = []
[launch]
gpu = "off"
[[source]]
fqrn = "a.example.org"
servers = ["http://localhost/cvmfs/@fqrn@"]
public_keys = ["/k.pub"]
refresh = "17s"
timeout = "3s"
date = 2026-01-02T03:04:05Z
`,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			var again Config
			if err := json.Unmarshal(b, &again); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*c, again) {
				t.Errorf("%+v became\n%+v", *c, again)
			}
		})
	}
}
