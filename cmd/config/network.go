package config

import (
	"time"
)

// Network says how a source's servers are asked. Zero values are the defaults;
// the reference client's parameter stands behind each.
type Network struct {
	Order           string   `toml:"order"`                              // "fixed": as written, the default for servers that are; "geo", the default for the built-in ones; "probe"
	MaxServers      int      `toml:"max_servers"`                        // keep the first of them; default all (CVMFS_MAX_SERVERS)
	FallbackProxies string   `toml:"fallback_proxies"`                   // CVMFS_FALLBACK_PROXY syntax; default none
	ShardProxies    bool     `toml:"shard_proxies"`                      // each object by the same member of a group (CVMFS_PROXY_SHARD)
	PreferIPv6      bool     `toml:"prefer_ipv6"`                        // CVMFS_IPFAMILY_PREFER=6
	FollowRedirects bool     `toml:"follow_redirects" json:",omitempty"` // at most 4 (CVMFS_FOLLOW_REDIRECTS)
	Timeout         Duration `toml:"timeout"`                            // through a proxy; default 5s (CVMFS_TIMEOUT)
	TimeoutDirect   Duration `toml:"timeout_direct"`                     // default 10s (CVMFS_TIMEOUT_DIRECT)
	LowSpeedLimit   Bound    `toml:"low_speed_limit"`                    // bytes/s; default 1024, -1: none (CVMFS_LOW_SPEED_LIMIT)
	MaxRetries      Bound    `toml:"max_retries"`                        // of one URL; default 1, -1: none (CVMFS_MAX_RETRIES)
	HostReset       Duration `toml:"host_reset"`                         // back to the first server; default 30m (CVMFS_HOST_RESET_AFTER)
	ProxyReset      Duration `toml:"proxy_reset"`                        // back to the first proxy group; default 5m (CVMFS_PROXY_RESET_AFTER)
	GiveUp          Duration `toml:"give_up"`                            // when a request that only fails ends with an I/O error; default 1m
	CABundle        string   `toml:"ca_bundle"`                          // PEM file of authorities for https besides the system's
}

// finish puts the defaults in.
func (n *Network) finish() {
	for _, d := range []struct {
		at    *Duration
		value time.Duration
	}{{&n.Timeout, 5 * time.Second}, {&n.TimeoutDirect, 10 * time.Second}, {&n.HostReset, 30 * time.Minute}, {&n.ProxyReset, 5 * time.Minute}, {&n.GiveUp, time.Minute}} {
		if *d.at == 0 {
			*d.at = Duration(d.value)
		}
	}
	if n.LowSpeedLimit == 0 {
		n.LowSpeedLimit = 1024
	}
	if n.MaxRetries == 0 {
		n.MaxRetries = 1
	}
}
