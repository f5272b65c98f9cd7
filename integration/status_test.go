package integration

import (
	"encoding/json"
	"os"
)

// status is the part of status.json that tests look at.
type status struct {
	PID        int          `json:"pid"`
	Supervisor string       `json:"supervisor_version"`
	Worker     workerStatus `json:"worker"`
	Version    string       `json:"version"`
	Mountpoint string       `json:"mountpoint"`
	Sources    []struct {
		FQRN           string `json:"fqrn"`
		Error          string `json:"error"`
		Revision       uint64 `json:"revision"`
		RootHash       string `json:"root_hash"`
		Offline        bool   `json:"offline"`
		HTTPRequests   uint64 `json:"http_requests"`
		HTTPBytes      uint64 `json:"http_bytes"`
		HTTPErrors     uint64 `json:"http_errors"`
		VerifyFailures uint64 `json:"verify_failures"`
	} `json:"sources"`
	Index struct {
		Apps     int `json:"apps"`
		Commands int `json:"commands"`
		Pending  int `json:"pending"`
	} `json:"index"`
	RSS    int64 `json:"memory_rss_bytes"`
	Memory struct {
		Limit    int64 `json:"heap_limit_bytes"`
		Catalogs int   `json:"catalogs"`
		Files    int   `json:"remembered_files"`
		Objects  int   `json:"open_objects"`
	} `json:"memory"`
	Fuse struct {
		Requests map[string]uint64 `json:"requests"`
		Total    uint64            `json:"requests_total"`
	} `json:"fuse"`
	Cache struct {
		Quota     int64 `json:"quota_bytes"`
		Used      int64 `json:"used_bytes"`
		Objects   int   `json:"objects"`
		Evictions int64 `json:"evictions"`
		Degraded  bool  `json:"degraded"`
	} `json:"cache"`
	Shared []struct {
		Dir     string `json:"dir"`
		Hits    int64  `json:"hits"`
		Refused int64  `json:"refused"`
		Error   string `json:"error"`
	} `json:"shared"`
	IOErrors uint64 `json:"io_errors"`
}

func (m *mounted) Status() (s status) {
	m.t.Helper()
	b, err := os.ReadFile(m.Path(".neurodeskfs", "status.json"))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		m.t.Fatalf("status: %v", err)
	}
	return s
}

// Indexed waits until the commands of all images are known.
func (m *mounted) Indexed() {
	m.t.Helper()
	eventually(m.t, "the command index is complete", func() bool {
		i := m.Status().Index
		return i.Pending == 0 && i.Apps > 0
	})
}
