package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/cache"
	"github.com/neurodesk/neurodeskfs/cmd/config"
)

// errNotOwner refuses whoever is neither the owner of a mount or a cache nor root.
var errNotOwner = failure{exitFailure, errors.New("only the owner of the mount and of its cache, and root, may do that")}

// cachePlace says which cache a command is about.
type cachePlace struct {
	flags mountFlags
	mount string
}

func (p *cachePlace) addFlags(c *cobra.Command) {
	c.Flags().StringVar(&p.flags.config, "config", "", "configuration `FILE` (TOML)")
	c.Flags().StringVar(&p.flags.cache, "cache", "", "cache `DIR`, instead of the configuration's")
	c.Flags().StringVar(&p.mount, "mount", "", "the cache of the mount at `DIR`")
}

// find returns the folder and the quota: those of the mount that --mount names,
// else those of the configuration.
func (p *cachePlace) find() (config.Cache, error) {
	if p.mount != "" {
		if p.flags.cache != "" || p.flags.config != "" {
			return config.Cache{}, failf(exitUsage, "--mount and --cache or --config exclude each other: keep one")
		}
		s, err := readStatus(p.mount)
		return config.Cache{Dir: s.Cache.Dir, Quota: config.Size(s.Cache.Quota)}, err
	}
	cfg, err := p.flags.load()
	if err != nil {
		return config.Cache{}, err
	}
	return cfg.Cache, nil
}

// carryOut has a request on a cache done: by the daemon that holds it, else here.
func carryOut(ctx context.Context, place config.Cache, r controlRequest, progress func(step)) (controlAnswer, error) {
	a, err := ask(ctx, place.Dir, r, progress)
	if !errors.Is(err, errNoDaemon) {
		return a, err
	}
	disk, err := openUnused(place)
	if err != nil {
		return a, err
	}
	a, err = cacheOperations[r.Do](ctx, disk, r, progress)
	return a, errors.Join(err, disk.Close())
}

// openUnused opens a cache that no daemon holds, as its owner.
func openUnused(place config.Cache) (*cache.Disk, error) {
	info, err := os.Stat(place.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, failf(exitFailure, "there is no cache at %s: neurodeskfs mount makes it, and --cache DIR or --mount DIR names another", place.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := becomeOwner(info); err != nil {
		return nil, err
	}
	_, err = os.Stat(filepath.Join(place.Dir, "VERSION"))
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, errNotOwner
	case err != nil:
		return nil, failf(exitFailure, "%s is not a cache of neurodeskfs (it has no file VERSION): --cache DIR or --mount DIR names another", place.Dir)
	}
	disk, err := cache.Open(place.Dir, cache.Options{Quota: int64(place.Quota)})
	if errors.Is(err, cache.ErrLocked) {
		return nil, failure{exitBusy, err}
	}
	return disk, err
}

// becomeOwner gives root's rights up for those of the owner of a cache, for the
// rest of this process: files that root left in it would lock the owner out,
// and a link that the owner put there would lead root astray.
func becomeOwner(dir os.FileInfo) error {
	uid, gid := owner(dir), group(dir)
	switch euid := os.Geteuid(); {
	case euid == uid:
		return nil
	case euid != 0:
		return errNotOwner
	}
	for _, err := range []error{syscall.Setgroups(nil), syscall.Setresgid(gid, gid, gid), syscall.Setresuid(uid, uid, uid)} {
		if err != nil {
			return fmt.Errorf("act for the cache's owner (uid %d): %w", uid, err)
		}
	}
	return nil
}

func newCache() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "Look at the local cache, check it and make room",
		Long: `While a mount uses the cache, its daemon does the work; otherwise it is done
here. Objects that are read at the moment are never removed.`,
		Example: "  neurodeskfs cache info\n  neurodeskfs cache prune --to 5GiB",
		Args:    usage(cobra.NoArgs),
	}
	c.AddCommand(newCacheInfo(), newCacheList(), newCacheVerify(), newCachePrune(), newCacheClear(), newCachePin(), newCacheUnpin())
	return c
}

func newCacheInfo() *cobra.Command {
	var p cachePlace
	var asJSON bool
	c := &cobra.Command{
		Use:     "info",
		Short:   "Show how much the cache holds, and who uses it",
		Long:    "Counts the files of the cache directory; no daemon needs to run.",
		Example: "  neurodeskfs cache info\n  neurodeskfs cache info --cache /scratch/nd-cache --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			place, err := p.find()
			if err != nil {
				return err
			}
			info, err := cache.Info(c.Context(), place.Dir)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					Dir     string `json:"dir"`
					Quota   int64  `json:"quota_bytes"`
					Used    int64  `json:"used_bytes"`
					Objects int    `json:"objects"`
					Held    bool   `json:"held"`
					Holder  int    `json:"holder_pid,omitempty"`
				}{info.Dir, int64(place.Quota), info.Bytes, info.Objects, info.Held, info.Holder})
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintf(w, "folder\t%s\n", info.Dir)
			fmt.Fprintf(w, "used\t%s of %s in %d objects\n", bytesText(info.Bytes), bytesText(int64(place.Quota)), info.Objects)
			switch {
			case info.Holder > 0:
				fmt.Fprintf(w, "in use by\tprocess %d\n", info.Holder)
			case info.Held:
				fmt.Fprintf(w, "in use by\ta process that is not known\n")
			}
			return w.Flush()
		},
	}
	p.addFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// onCache finds the cache, has a request done and decodes the answer's data.
func onCache[T any](ctx context.Context, p *cachePlace, r controlRequest, progress func(step)) (data T, text string, err error) {
	place, err := p.find()
	if err != nil {
		return data, "", err
	}
	a, err := carryOut(ctx, place, r, progress)
	data, err = decodeData[T](a, err)
	return data, a.Text, err
}

// askData is ask, and decodes the answer's data.
func askData[T any](ctx context.Context, cacheDir string, r controlRequest, progress func(step)) (T, error) {
	return decodeData[T](ask(ctx, cacheDir, r, progress))
}

func decodeData[T any](a controlAnswer, err error) (data T, _ error) {
	if err != nil || len(a.Data) == 0 {
		return data, err
	}
	if err := json.Unmarshal(a.Data, &data); err != nil {
		return data, fmt.Errorf("the daemon's answer: %w", err)
	}
	return data, nil
}
