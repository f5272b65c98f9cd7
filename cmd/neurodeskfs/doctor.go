package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// Verdict is how a check ended.
type Verdict string

// The verdicts: a warning leaves neurodeskfs working, a failure does not.
const (
	VerdictOK   Verdict = "ok"
	VerdictWarn Verdict = "warn"
	VerdictFail Verdict = "fail"
)

// Check is one thing that doctor looked at.
type Check struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`           // what was found
	Mend    string  `json:"mend,omitempty"` // what to do about it
}

func ok(name, format string, args ...any) Check {
	return Check{name, VerdictOK, fmt.Sprintf(format, args...), ""}
}

func warn(name, mend, format string, args ...any) Check {
	return Check{name, VerdictWarn, fmt.Sprintf(format, args...), mend}
}

func fail(name, mend, format string, args ...any) Check {
	return Check{name, VerdictFail, fmt.Sprintf(format, args...), mend}
}

// machine is where the checks of the operating system look. Tests put a folder
// of theirs in place of the root directory.
type machine struct {
	root string // "" for the real one
	uid  int
}

func (m machine) path(p string) string { return filepath.Join(m.root+"/", p) }

// setting reads a file such as /proc/sys/..., without its newline; "" if it is
// not there.
func (m machine) setting(p string) string {
	b, err := os.ReadFile(m.path(p))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func newDoctor() *cobra.Command {
	var f mountFlags
	var network, asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check what neurodeskfs needs and say how to mend it",
		Long: `Checks FUSE, user namespaces, the container runtimes, the configuration, its
keys and proxies, the clock, the cache's disk and the mounts. Asks no server
unless --network is given. Each line is ok, warn or fail, with what to do about
it; exit status 1 if one failed.`,
		Example: "  neurodeskfs doctor\n  neurodeskfs doctor --network --config site.toml",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			checks := examine(c.Context(), f, network)
			failed := 0
			for _, check := range checks {
				if check.Verdict == VerdictFail {
					failed++
				}
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), checks); err != nil {
					return err
				}
			} else {
				printChecks(c.OutOrStdout(), checks)
			}
			if failed > 0 {
				return failf(exitFailure, "%d of %d checks failed", failed, len(checks))
			}
			return nil
		},
	}
	c.Flags().StringVar(&f.config, "config", "", "configuration `FILE` (TOML)")
	c.Flags().StringVar(&f.cache, "cache", "", "cache `DIR`, instead of the configuration's")
	c.Flags().BoolVar(&network, "network", false, "ask the proxies and servers of the configuration too")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// examine makes all checks.
func examine(ctx context.Context, f mountFlags, network bool) []Check {
	m := machine{"", os.Geteuid()}
	checks := []Check{m.fuseDevice(), m.fusermount(ctx), m.allowOther()}
	checks = append(checks, m.userNamespaces()...)
	checks = append(checks, runtimes(ctx)...)
	checks = append(checks, mountsAnswer()...)
	cfg, err := f.load()
	if err != nil {
		return append(checks, fail("configuration", "neurodeskfs config validate says the same until it is mended", "%v", err))
	}
	name := cfg.File
	if name == "" {
		name = "built in"
	}
	checks = append(checks, ok("configuration", "%s, sources: %d", name, len(cfg.Sources)))
	checks = append(checks, cacheDisk(cfg.Cache)...)
	seen, err := seenEvidence(ctx, cfg.Cache)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		checks = append(checks, warn("cache", "neurodeskfs cache info", "its notes cannot be read: %v", err))
	}
	checks = append(checks, clock())
	for _, s := range cfg.Sources {
		checks = append(checks, sourceChecks(ctx, s, seen[s.FQRN], network)...)
	}
	return checks
}

// sourceChecks looks at one repository.
func sourceChecks(ctx context.Context, s config.Source, seen evidence, network bool) []Check {
	if s.Kind == config.KindMounted {
		if err := checkMounted(s); err != nil {
			return []Check{fail(s.FQRN, "ls "+s.At+" shows whether the host's CVMFS client works (cvmfs_config probe)", "%v", err)}
		}
		return []Check{ok(s.FQRN, "the host has it at %s", s.At)}
	}
	if s.Kind == config.KindDir {
		if err := tree.CheckFolder(s.Path, os.Geteuid() == 0); err != nil { // root's mount is for all, by default
			return []Check{fail(s.FQRN, "ls "+s.Path+" shows why", "%v", err)}
		}
		return []Check{ok(s.FQRN, "images of %s", s.Path)}
	}
	if s.Kind == config.KindHTTP {
		return bucketChecks(ctx, s, network)
	}
	keys, err := masterKeys(s)
	if err != nil {
		return []Check{fail(s.FQRN+" keys", "put the repository's master key (PEM) there, or name another file in public_keys", "%v", err)}
	}
	checks := []Check{ok(s.FQRN+" keys", "master keys: %d", len(keys))}
	checks = append(checks, checkRoute(s))
	for _, note := range s.SiteNotes {
		checks = append(checks, warn(s.FQRN+" site", "write it in the configuration, or there as a plain KEY=VALUE", "%s", note))
	}
	if network {
		asked, fresh := askServers(ctx, s)
		checks = append(checks, asked...)
		if len(fresh.Whitelist) > 0 {
			seen = fresh
		}
	}
	return append(checks, checkDates(s, keys, seen))
}

// printChecks writes the checks, wrapped to 80 columns.
func printChecks(out io.Writer, checks []Check) {
	for _, c := range checks {
		wrap(out, fmt.Sprintf("%-4s  ", c.Verdict), visible(c.Name+": "+c.Text))
		if c.Mend != "" {
			wrap(out, "      -> ", visible(c.Mend))
		}
	}
}
