package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	builtin "github.com/neurodesk/neurodeskfs/cvmfs/config"
	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
	"github.com/neurodesk/neurodeskfs/cvmfs/trust"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// openSources opens all repositories at once. It fails only if none opens.
func (d *daemon) openSources(ctx context.Context, cfg *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for _, s := range cfg.Sources {
		d.sources = append(d.sources, &source{Source: s})
	}
	if d.resume {
		return d.resumeSources(ctx, cfg)
	}
	var wait sync.WaitGroup
	for _, s := range d.sources {
		wait.Go(func() {
			switch s.Kind {
			case config.KindMounted:
				s.err = checkMounted(s.Source)
				return
			case config.KindDir:
				if err := tree.CheckFolder(s.Path, d.public); err != nil {
					s.err = fmt.Errorf("%s: %w", s.FQRN, err)
				}
				return
			case config.KindHTTP:
				s.bucket, s.err = d.openBucket(s.Source)
				return
			}
			s.repo, s.err = d.openSource(ctx, s.Source, nil)
		})
	}
	wait.Wait()
	var errs []error
	for _, s := range d.sources {
		if s.err != nil {
			s.err = d.explainDenied(s.err)
			errs = append(errs, s.err)
			d.log.Error("a source cannot be opened", "repo", s.FQRN, "err", s.err)
		}
	}
	if len(errs) == len(d.sources) {
		return failure{exitUntrusted, errors.Join(errs...)}
	}
	return nil
}

// maxRedirects is how many redirects are followed where they are, as many as the
// reference client does.
const maxRedirects = 4

// netConfig is how the servers of a source are asked.
func netConfig(s config.Source) fetch.Config {
	c := fetch.Config{
		Servers: s.Servers, Proxies: s.Proxies, FallbackProxies: s.FallbackProxies, ShardProxies: s.ShardProxies,
		Order: s.Order, MaxServers: s.MaxServers, PreferIPv6: s.PreferIPv6,
		Timeout: time.Duration(s.Timeout), TimeoutDirect: time.Duration(s.TimeoutDirect), LowSpeedLimit: int64(s.LowSpeedLimit),
		MaxRetries: int(s.MaxRetries), HostReset: time.Duration(s.HostReset), ProxyReset: time.Duration(s.ProxyReset), GiveUp: time.Duration(s.GiveUp),
		CABundle: s.CABundle, UserAgent: userAgent, Logger: slog.New(slog.DiscardHandler),
	}
	if s.FollowRedirects {
		c.MaxRedirects = maxRedirects
	}
	return c
}

// checkNet reports what is wrong with the servers, the proxies and the authorities
// of a source, as far as that can be seen without asking anybody.
func checkNet(s config.Source) error {
	switch s.Kind {
	case config.KindDir, config.KindMounted:
		return nil
	case config.KindHTTP:
		b, err := tryBucket(s)
		if err == nil {
			b.Close()
		}
		return err
	}
	net, err := fetch.New(netConfig(s))
	if err == nil {
		net.Close()
	}
	return err
}

func (d *daemon) netConfig(s config.Source) fetch.Config {
	c := netConfig(s)
	c.Keep, c.Logger = memo{d.disk}, d.log
	return c
}

// openSource opens a repository, at the head that another process has shown if
// there is one. Then nothing that is missing now may stop it.
func (d *daemon) openSource(ctx context.Context, s config.Source, head *cvmfs.Head) (*cvmfs.Repository, error) {
	keys, err := masterKeys(s)
	if err != nil && head != nil {
		d.log.Error("no new revision can be verified", "repo", s.FQRN, "err", err)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", s.FQRN, err)
	}
	net, err := fetch.New(d.netConfig(s))
	if err != nil && head != nil {
		d.log.Error("the authorities of ca_bundle cannot be read", "repo", s.FQRN, "err", err)
		s.CABundle = ""
		net, err = fetch.New(d.netConfig(s))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.FQRN, err)
	}
	repo, err := cvmfs.Open(ctx, cvmfs.Options{
		FQRN: s.FQRN, Keys: keys, Net: net, Store: d.disk, Quota: d.disk.Stats().QuotaBytes, Sharing: d.repositories(), Claim: d.claim, Memo: memo{d.disk},
		Tiers: d.tiers, Fill: d.fill, AllowExpired: d.expired,
		BlacklistFile: s.Blacklist, BlacklistMayLack: s.SiteBlacklist, Tag: s.Tag, Revision: s.Revision, Date: s.Date, RootHash: s.RootHash,
		Resume: head, ExternalURL: s.ExternalURL, Getenv: s.Variable, Logger: d.log, Serial: os.Getenv(serialVariable) != "",
	})
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%s: no server gave what is needed within %s: %w", s.FQRN, openTimeout, err)
	}
	return repo, err
}

// repositories counts the sources that openSource opens.
func (d *daemon) repositories() (n int) {
	for _, s := range d.sources {
		if s.Kind == "cvmfs" {
			n++
		}
	}
	return n
}

// checkMounted looks whether the host has the repository where the
// configuration says.
func checkMounted(s config.Source) error {
	if _, err := os.Stat(filepath.Join(s.At, s.Path)); err != nil {
		return fmt.Errorf("%s is not mounted at %s: %w: mount it there, or write kind = \"cvmfs\"", s.FQRN, s.At, err)
	}
	return nil
}

func masterKeys(s config.Source) (trust.Keys, error) {
	if len(s.PublicKeys) == 0 {
		return trust.ParseKeys([]byte(builtin.NeurodeskKey))
	}
	return trust.LoadKeys(s.PublicKeys...)
}
