package config

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Each accessor below returns the parameter's value, or the reference client's
// default where it is not set or empty. Its error wraps ErrParameter and says
// where the value stands.

// Servers is CVMFS_SERVER_URL, split at ";" with @fqrn@ and @org@ replaced.
// Default none.
func (p Parameters) Servers() []string {
	org, _, _ := strings.Cut(p.FQRN, ".")
	var servers []string
	for s := range strings.SplitSeq(p.text("CVMFS_SERVER_URL"), ";") {
		if s = strings.TrimSpace(s); s != "" {
			servers = append(servers, strings.NewReplacer("@fqrn@", p.FQRN, "@org@", org).Replace(s))
		}
	}
	return servers
}

// HTTPProxy is CVMFS_HTTP_PROXY, in its own syntax. Default "": the reference
// client refuses to mount then.
func (p Parameters) HTTPProxy() string { return p.text("CVMFS_HTTP_PROXY") }

// FallbackProxy is CVMFS_FALLBACK_PROXY, in the same syntax. Default "".
func (p Parameters) FallbackProxy() string { return p.text("CVMFS_FALLBACK_PROXY") }

// PublicKeys are files, or directories of *.pub files, with master keys:
// CVMFS_KEYS_DIR, else CVMFS_PUBLIC_KEY split at ":", else the folder keys of
// the configuration.
func (p Parameters) PublicKeys() []string {
	if dir := p.text("CVMFS_KEYS_DIR"); dir != "" {
		return []string{dir}
	}
	var files []string
	for f := range strings.SplitSeq(p.text("CVMFS_PUBLIC_KEY"), ":") {
		if f != "" {
			files = append(files, f)
		}
	}
	if len(files) == 0 {
		files = []string{filepath.Join(p.dir, "keys")}
	}
	return files
}

// QuotaLimit is CVMFS_QUOTA_LIMIT, which counts MiB, in bytes. Default 4000 MiB;
// -1: unlimited.
func (p Parameters) QuotaLimit() (bytes int64, err error) {
	n, err := p.number("CVMFS_QUOTA_LIMIT", 4000, -1, math.MaxInt64>>20)
	if n < 0 {
		return -1, err
	}
	return n << 20, err
}

// Timeout is CVMFS_TIMEOUT, of requests by proxy. Default 5 s.
func (p Parameters) Timeout() (time.Duration, error) { return p.seconds("CVMFS_TIMEOUT", 5, 1) }

// TimeoutDirect is CVMFS_TIMEOUT_DIRECT, of requests by none. Default 10 s.
func (p Parameters) TimeoutDirect() (time.Duration, error) {
	return p.seconds("CVMFS_TIMEOUT_DIRECT", 10, 1)
}

// MaxRetries is CVMFS_MAX_RETRIES, how often one URL is asked again. Default 1;
// 0: never.
func (p Parameters) MaxRetries() (int, error) {
	n, err := p.number("CVMFS_MAX_RETRIES", 1, 0, 1000)
	return int(n), err
}

// LowSpeedLimit is CVMFS_LOW_SPEED_LIMIT in bytes/s. Default 1024; 0: none.
func (p Parameters) LowSpeedLimit() (int64, error) {
	return p.number("CVMFS_LOW_SPEED_LIMIT", 1024, 0, math.MaxInt32)
}

// HostReset is CVMFS_HOST_RESET_AFTER. Default 30 min; 0: never.
func (p Parameters) HostReset() (time.Duration, error) {
	return p.seconds("CVMFS_HOST_RESET_AFTER", 1800, 0)
}

// ProxyReset is CVMFS_PROXY_RESET_AFTER. Default 5 min; 0: never.
func (p Parameters) ProxyReset() (time.Duration, error) {
	return p.seconds("CVMFS_PROXY_RESET_AFTER", 300, 0)
}

// UseGeoAPI is CVMFS_USE_GEOAPI. Default false.
func (p Parameters) UseGeoAPI() (bool, error) { return p.boolean("CVMFS_USE_GEOAPI") }

// ShardProxies is CVMFS_PROXY_SHARD. Default false.
func (p Parameters) ShardProxies() (bool, error) { return p.boolean("CVMFS_PROXY_SHARD") }

// PreferIPv6 is whether CVMFS_IPFAMILY_PREFER is 6. Default false.
func (p Parameters) PreferIPv6() (bool, error) {
	switch p.text("CVMFS_IPFAMILY_PREFER") {
	case "", "4":
		return false, nil
	case "6":
		return true, nil
	}
	return false, p.wrong("CVMFS_IPFAMILY_PREFER", "4 or 6")
}

// MaxServers is CVMFS_MAX_SERVERS. Default 0: all.
func (p Parameters) MaxServers() (int, error) {
	n, err := p.number("CVMFS_MAX_SERVERS", 0, 0, math.MaxInt32)
	return int(n), err
}

// MaxTTL is CVMFS_MAX_TTL, which counts minutes. Default 0: the repository's own.
func (p Parameters) MaxTTL() (time.Duration, error) {
	n, err := p.number("CVMFS_MAX_TTL", 0, 0, math.MaxInt32)
	return time.Duration(n) * time.Minute, err
}

func (p Parameters) text(key string) string { return strings.TrimSpace(p.values[key].Value) }

// number reads a whole number from low to high.
func (p Parameters) number(key string, def, low, high int64) (int64, error) {
	s := p.text(key)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < low || n > high {
		return def, p.wrong(key, fmt.Sprintf("a whole number, %d or greater", low))
	}
	return n, nil
}

func (p Parameters) seconds(key string, def, low int64) (time.Duration, error) {
	n, err := p.number(key, def, low, math.MaxInt32)
	return time.Duration(n) * time.Second, err
}

// boolean reads what the reference client takes as true and false.
func (p Parameters) boolean(key string) (bool, error) {
	switch strings.ToLower(p.text(key)) {
	case "yes", "on", "1", "true":
		return true, nil
	case "", "no", "off", "0", "false":
		return false, nil
	}
	return false, p.wrong(key, "yes or no")
}

func (p Parameters) wrong(key, hint string) error {
	s := p.values[key]
	return fmt.Errorf("%w: %s: %s=%.60q: write %s", ErrParameter, s.Origin, key, s.Value, hint)
}
