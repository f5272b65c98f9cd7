package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/integration/bench/delay"
)

// site is a repository and the server that serves nothing else.
type site struct {
	fqrn   string
	key    string // file of the public master key, which the account can read
	server *cvmfstest.Server
	layout string // for the configuration's layout
}

// openSite serves content as the repository fqrn until the case ends.
func (b *bench) openSite(fqrn, layout string, key []byte, content fs.FS) (*site, error) {
	s := &site{fqrn: fqrn, key: filepath.Join(b.scratch, fqrn+".pub"), layout: layout}
	if err := os.WriteFile(s.key, key, 0o644); err != nil {
		return nil, err
	}
	var err error
	if s.server, err = cvmfstest.NewServer(); err != nil {
		return nil, err
	}
	b.onExit(s.server.Close)
	s.server.Add(fqrn, content)
	return s, nil
}

// goldenSite serves the golden repository of unpacked Neurodesk images.
func (b *bench) goldenSite() (*site, error) {
	const fqrn = "neurodesk.golden.test"
	dir := filepath.Join(b.golden, "neurodesk")
	key, err := os.ReadFile(filepath.Join(dir, "keys", fqrn+".pub"))
	if err != nil {
		return nil, err
	}
	return b.openSite(fqrn, "neurodesk", key, os.DirFS(filepath.Join(dir, fqrn)))
}

// publish makes a repository of the tree and serves it.
func (b *bench) publish(ctx context.Context, tree *cvmfstest.Tree, o cvmfstest.Options, layout string) (*site, *cvmfstest.Revision, error) {
	o.TTL = time.Hour // nobody asks for the manifest again while we count
	repo, err := cvmfstest.New(o)
	if err != nil {
		return nil, nil, err
	}
	revision, err := repo.Publish(ctx, tree)
	if err != nil {
		return nil, nil, err
	}
	key, err := repo.Keys.MasterPEM()
	if err != nil {
		return nil, nil, err
	}
	s, err := b.openSite(o.FQRN, layout, key, repo.Store)
	return s, revision, err
}

// behind puts the server at a round trip's distance until the case ends, and
// returns the address there.
func (b *bench) behind(s *site, rtt time.Duration) (string, error) {
	p, err := delay.New(s.server.Addr(), rtt)
	if err != nil {
		return "", err
	}
	b.onExit(p.Close)
	return p.Addr(), nil
}

// mounted is a mount of ours.
type mounted struct {
	b     *bench
	site  *site
	dir   string
	cache string
}

// mountOptions say what is mounted. Zero values mean: the site's server without
// delay, an empty cache, nothing more in the configuration.
type mountOptions struct {
	server string // host:port
	cache  string // directory, of an earlier mount
	config string // more TOML
	serial bool   // fetch one thing after another, each when it is asked for
}

// mount mounts a site as the account does, by the command line.
func (b *bench) mount(ctx context.Context, s *site, o mountOptions) (*mounted, error) {
	if o.server == "" {
		o.server = s.server.Addr()
	}
	var env []string
	if o.serial {
		env = append(env, "NEURODESKFS_SERIAL=1")
	}
	return b.mountSources(ctx, s, o.cache, fmt.Sprintf(`[[source]]
fqrn = %q
servers = ["http://%s/cvmfs/@fqrn@"]
public_keys = [%q]
layout = %q
%s`, s.fqrn, o.server, s.key, s.layout, o.config), env...)
}

// mountSources mounts what sources, TOML, says. No cache: an empty one. No site:
// there is no repository. env is for the daemon.
func (b *bench) mountSources(ctx context.Context, s *site, cache, sources string, env ...string) (*mounted, error) {
	b.mounts++
	m := &mounted{b: b, site: s, dir: filepath.Join(b.scratch, fmt.Sprintf("m%d", b.mounts)), cache: cache}
	if m.cache == "" {
		m.cache = filepath.Join(b.scratch, fmt.Sprintf("cache%d", b.mounts))
	}
	if err := errors.Join(b.makeDir(m.dir), b.makeDir(m.cache)); err != nil {
		return nil, err
	}
	file := m.dir + ".toml"
	if err := os.WriteFile(file, fmt.Appendf(nil, "[cache]\ndir = %q\n%s", m.cache, sources), 0o644); err != nil {
		return nil, err
	}
	args := []string{"mount", "--config", file}
	if addr := os.Getenv("PPROF"); addr != "" {
		args = append(args, "--pprof", addr)
	}
	cmd := b.command(ctx, b.program("neurodeskfs"), append(args, m.dir)...)
	cmd.Env = append(append(cmd.Env, m.marker()), env...)
	_, err := capture(ctx, cmd)
	return m, err
}

// marker is the variable that this mount's daemon has in its environment.
func (m *mounted) marker() string { return marker + "_MOUNT=" + m.dir }

// raw is a path in the repository as the mount shows it.
func (m *mounted) raw(path string) string {
	return filepath.Join(m.dir, "cvmfs", m.site.fqrn, path)
}

// unmount returns when the daemon has ended, so that the cache is free. A daemon
// that serves on, because a container that somebody else started meanwhile has a
// copy of the mount, is made to end.
func (m *mounted) unmount(ctx context.Context) error {
	_, err := m.b.run(ctx, m.b.program("neurodeskfs"), "umount", m.dir)
	mounts, mountErr := m.b.mountPoints()
	if err != nil && mountErr == nil && !slices.Contains(mounts, m.dir) {
		return endProcesses(ctx, m.marker())
	}
	return err
}

// drop unmounts and removes the cache.
func (m *mounted) drop(ctx context.Context) error {
	if err := m.unmount(ctx); err != nil {
		return err
	}
	return removeAll(m.cache)
}

// state is what we need of status.json.
type state struct {
	Index struct {
		Pending  int `json:"pending"`
		Commands int `json:"commands"`
	} `json:"index"`
	Fuse struct {
		Requests map[string]uint64 `json:"requests"`
	} `json:"fuse"`
	IOErrors uint64 `json:"io_errors"`
	RSS      uint64 `json:"memory_rss_bytes"`
}

// asked is how many requests the kernel made and waited for. What it forgets it
// tells whenever it likes.
func (s state) asked() (sum uint64) {
	for name, n := range s.Fuse.Requests {
		if !strings.HasSuffix(name, "FORGET") {
			sum += n
		}
	}
	return sum
}

func (m *mounted) status(ctx context.Context) (s state, err error) {
	text, err := m.b.run(ctx, m.b.program("neurodeskfs"), "status", "--json", m.dir)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("status of %s: %w", m.dir, err)
	}
	return s, nil
}

// indexed returns when the index of commands is complete.
func (m *mounted) indexed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		s, err := m.status(ctx)
		if err != nil {
			return fmt.Errorf("wait for the index: %w", err)
		}
		if s.Index.Pending == 0 && s.Index.Commands > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the index is not complete: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// healthy fails if the mount answered anything with an I/O error, and returns
// the daemon's resident bytes.
func (m *mounted) healthy(ctx context.Context) (uint64, error) {
	s, err := m.status(ctx)
	if err == nil && s.IOErrors > 0 {
		err = fmt.Errorf("%d requests were answered with an I/O error", s.IOErrors)
	}
	if err == nil && s.RSS > m.b.report.Memory[m.b.current] {
		m.b.report.Memory[m.b.current] = s.RSS
	}
	return s.RSS, err
}

// objects are the requested paths of a log, one for each request.
func objects(log []cvmfstest.Request) []string {
	var list []string
	for _, r := range log {
		if strings.Contains(r.Path, "/data/") {
			list = append(list, r.Path)
		}
	}
	return list
}
