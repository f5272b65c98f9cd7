package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
)

const (
	connectPatience = 5 * time.Second
	serverPatience  = 15 * time.Second
	evidenceLimit   = 256 << 10 // bytes
)

// evidence is what a repository says of itself, as it was verified last.
type evidence struct {
	Manifest, Whitelist []byte
}

// seenEvidence returns what the cache keeps, by repository.
func seenEvidence(ctx context.Context, place config.Cache) (map[string]evidence, error) {
	if _, err := os.Stat(place.Dir); err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(place.Dir); err == nil && len(entries) == 0 {
		return nil, os.ErrNotExist // never used: nothing to read, nothing to make
	}
	a, err := carryOut(ctx, place, controlRequest{Do: "cache evidence"}, nil)
	if err != nil {
		return nil, err
	}
	var found map[string]evidence
	return found, json.Unmarshal(a.Data, &found)
}

// clock finds a clock that was never set.
func clock() Check {
	now := time.Now()
	if now.Year() < 2025 {
		return fail("clock", "set the clock (timedatectl set-ntp true)", "it says %s", now.Format(time.DateTime))
	}
	return ok("clock", "it says %s", now.Format(time.DateTime))
}

// checkDates compares the clock with what a repository's servers have signed.
func checkDates(s config.Source, keys trust.Keys, e evidence) Check {
	name := s.FQRN + " dates"
	const mend = "set the clock (timedatectl set-ntp true)"
	if len(e.Whitelist) == 0 {
		return ok(name, "nothing was fetched yet to compare the clock with (--network does)")
	}
	w, err := trust.ParseWhitelist(e.Whitelist)
	now := time.Now()
	if err == nil && now.Before(w.Issued) {
		return fail(name, mend, "the clock says %s, but the whitelist was signed on %s", now.UTC().Format(time.DateTime), w.Issued.Format(time.DateTime))
	}
	if err == nil {
		err = w.Verify(keys, s.FQRN, now)
	}
	switch {
	case errors.Is(err, trust.ErrExpired):
		return fail(name, mend+"; if it is right, neurodeskfs reload, or tell the repository's operators",
			"by the clock, %s, the whitelist ran out on %s", now.UTC().Format(time.DateTime), w.Expires.Format(time.DateTime))
	case err != nil:
		return fail(name, "compare public_keys with the repository's published key", "the whitelist: %v", err)
	}
	if m, err := trust.ParseManifest(e.Manifest); err == nil && m.Published.After(now.Add(time.Hour)) {
		return warn(name, mend, "the clock says %s, but the revision is of %s", now.UTC().Format(time.DateTime), m.Published.Format(time.DateTime))
	}
	return ok(name, "whitelist valid until %s", w.Expires.Format(time.DateOnly))
}

// checkRoute checks servers and proxies as far as their texts go.
func checkRoute(s config.Source) Check {
	name := s.FQRN + " servers"
	if err := checkNet(s); err != nil {
		return fail(name, "mend it in the configuration (neurodeskfs config show names the line)", "%v", err)
	}
	return ok(name, "servers: %d, proxies: %s", len(s.Servers), clip(s.Proxies, 60))
}

// askServers asks each proxy for a connection and each server for the
// repository's manifest.
func askServers(ctx context.Context, s config.Source) (checks []Check, e evidence) {
	for _, proxy := range proxyURLs(s.Proxies + ";" + s.FallbackProxies) {
		checks = append(checks, askProxy(ctx, s.FQRN, proxy))
	}
	answered := 0
	for _, server := range s.Servers {
		name := s.FQRN + " server"
		began := time.Now()
		found, err := askServer(ctx, server, s)
		if err != nil {
			checks = append(checks, warn(name, "", "%s: %v", server, err))
			continue
		}
		answered++
		if e.Whitelist == nil {
			e = found
		}
		checks = append(checks, ok(name, "%s answers in %s", server, time.Since(began).Round(time.Millisecond)))
	}
	if answered == 0 {
		checks = append(checks, fail(s.FQRN+" servers", "check the network and the proxies (proxies = \"http://HOST:3128\" in the configuration); a mount works offline from what is cached",
			"none of %d answers", len(s.Servers)))
	}
	return checks, e
}

// proxyURLs lists the proxies of a text in the CVMFS_HTTP_PROXY syntax.
func proxyURLs(text string) []string {
	var list []string
	for _, p := range strings.FieldsFunc(text, func(r rune) bool { return r == ';' || r == '|' }) {
		if p = strings.TrimSpace(p); p != "" && p != "DIRECT" && p != "auto" {
			list = append(list, p)
		}
	}
	return list
}

func askProxy(ctx context.Context, fqrn, proxy string) Check {
	name := fqrn + " proxy"
	host := proxy
	if u, err := url.Parse(proxy); err == nil && u.Host != "" {
		host = u.Host
	}
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return warn(name, "is the proxy's name right, and may this machine reach it?", "%s cannot be reached: %v", host, err)
	}
	conn.Close()
	return ok(name, "%s can be reached", host)
}

// askServer fetches the manifest and the whitelist from one server of s, as a
// mount would.
func askServer(ctx context.Context, server string, s config.Source) (e evidence, err error) {
	c := netConfig(s)
	c.Servers, c.Order = []string{server}, ""
	client, err := fetch.New(c)
	if err != nil {
		return e, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	read := func(path string, to *[]byte, check func([]byte) error) error {
		return client.Get(ctx, fetch.Request{Path: path, Limit: evidenceLimit, Hurry: true, Accept: func(_ context.Context, body io.Reader) error {
			b, err := io.ReadAll(body)
			if err == nil {
				err = check(b)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", fetch.ErrContent, err)
			}
			*to = b
			return nil
		}})
	}
	err = read(".cvmfspublished", &e.Manifest, func(b []byte) error { _, err := trust.ParseManifest(b); return err })
	if err != nil {
		return e, err
	}
	return e, read(".cvmfswhitelist", &e.Whitelist, func(b []byte) error { _, err := trust.ParseWhitelist(b); return err })
}
