package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/blob"
	"github.com/neurodesk/neurodeskfs/cvmfs/tier"
	"github.com/neurodesk/neurodeskfs/fs/launch"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

// PrefetchReport is what prefetch --json prints. Bytes are of content.
type PrefetchReport struct {
	To     string            `json:"to"` // the cache, or the shared tier
	Images []PrefetchedImage `json:"images"`
}

// PrefetchedImage is one image, all of which is there now.
type PrefetchedImage struct {
	Image        string `json:"image"`      // APP/VERSION_DATE
	Repository   string `json:"repository"` // or the source's name
	Objects      int    `json:"objects"`
	Bytes        int64  `json:"bytes"`
	Fetched      int    `json:"fetched_objects"` // the others were there
	FetchedBytes int64  `json:"fetched_bytes"`
}

// prefetchFlags say what is fetched and where to.
type prefetchFlags struct {
	place    cachePlace
	to, lock string
}

func newPrefetch() *cobra.Command {
	var f prefetchFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "prefetch [APP[/VERSION] ...]",
		Short: "Fetch whole images, so that using them needs no network later",
		Long: `Fetches all that the images consist of, verified, into the cache: that of the
mount, if there is one. With --to DIR into a shared tier, a directory that nodes
with cache.shared = DIR read before they ask the network. VERSION is a name as
in M/apps/APP; without it, it is the image that a lock file or $NEURODESK_PIN
names (see neurodeskfs pin), else the newest. Without an APP, all that the lock
file names are fetched. What is there already is not fetched again: a run that
was interrupted goes on where it stopped.`,
		Example: "  neurodeskfs prefetch fsl mrtrix3/3.0.3\n  neurodeskfs prefetch --lock study/neurodesk.lock\n  neurodeskfs prefetch fsl --to /lustre/neurodesk",
		Args:    usage(cobra.ArbitraryArgs),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			show := newPrefetchBar(c.ErrOrStderr(), asJSON)
			report, err := f.run(ctx, args, show.step)
			show.clear()
			if err != nil {
				if ctx.Err() != nil {
					return failf(exitFailure, "interrupted; what was fetched stays: the same command goes on from there")
				}
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), report)
			}
			report.print(c.OutOrStdout())
			return nil
		},
	}
	f.place.addFlags(c)
	c.Flags().StringVar(&f.lock, "lock", "", "the images that this lock `FILE` names")
	c.Flags().StringVar(&f.to, "to", "", "fill the shared tier in `DIR` instead of the cache")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// run has the images fetched by the daemon of the mount, else here.
func (f *prefetchFlags) run(ctx context.Context, args []string, progress func(step)) (report PrefetchReport, err error) {
	images, err := wantedHere(args, f.lock)
	if err != nil {
		return report, err
	}
	cfg, err := f.place.flags.load()
	if err != nil {
		return report, err
	}
	if f.to != "" {
		return fillTier(ctx, cfg, f.to, images, progress)
	}
	if dir, err := f.cacheDir(); err != nil {
		return report, err
	} else if dir != "" {
		cfg.Cache.Dir = dir
	}
	report, err = askData[PrefetchReport](ctx, cfg.Cache.Dir, controlRequest{Do: "prefetch", Apps: images.apps, Locked: images.locked}, progress)
	if !errors.Is(err, errNoDaemon) {
		return report, err
	}
	if info, err := os.Stat(cfg.Cache.Dir); err == nil {
		if err := becomeOwner(info); err != nil {
			return report, err
		}
	}
	return prefetchHere(ctx, cfg, nil, images, progress)
}

// cacheDir is the cache of the mount that is meant: of the one that is named,
// else, where no flag says otherwise, of the one there is; "" for the configuration's.
func (f *prefetchFlags) cacheDir() (string, error) {
	p := &f.place
	if p.mount != "" {
		place, err := p.find()
		return place.Dir, err
	}
	if p.flags.cache != "" || p.flags.config != "" {
		return "", nil
	}
	s, err := readStatus("")
	if err != nil {
		return "", nil // nothing is mounted
	}
	return s.Cache.Dir, nil
}

// fillTier fills the shared tier in dir. What it needs to know of the
// repositories lies in a cache of its own meanwhile, since a mount may hold the usual one.
func fillTier(ctx context.Context, cfg *config.Config, dir string, images wanted, progress func(step)) (report PrefetchReport, err error) {
	log := slog.New(slog.DiscardHandler)
	shared, err := tier.Make(dir, log)
	if err != nil {
		return report, err
	}
	temporary, err := os.MkdirTemp("", "neurodeskfs-prefetch-")
	if err != nil {
		return report, err
	}
	defer os.RemoveAll(temporary)
	cfg.Cache.Dir = temporary
	return prefetchHere(ctx, cfg, shared, images, progress)
}

// prefetchHere does without a daemon.
func prefetchHere(ctx context.Context, cfg *config.Config, fill *tier.Tier, images wanted, progress func(step)) (PrefetchReport, error) {
	d := newDaemon("/", slog.New(slog.DiscardHandler))
	defer d.close()
	if fill != nil {
		d.fill, d.tiers = fill, []*tier.Tier{fill}
	}
	d.ledger = new(ledger) // nobody follows
	var err error
	if d.kept.table, err = newTableFile(cfg.Cache.Dir); err != nil {
		return PrefetchReport{}, err
	}
	if err := d.prepare(ctx, cfg); err != nil {
		return PrefetchReport{}, err
	}
	return d.prefetch(ctx, images, progress)
}

// prefetch fetches images, one after the other, each in parallel.
func (d *daemon) prefetch(ctx context.Context, images wanted, progress func(step)) (PrefetchReport, error) {
	r := PrefetchReport{To: d.disk.Stats().Dir, Images: []PrefetchedImage{}}
	if d.fill != nil {
		r.To = d.fill.Stats().Dir
	}
	for _, name := range images.apps {
		image, err := d.prefetchImage(ctx, name, images.lockOf(name), progress)
		if err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		r.Images = append(r.Images, image)
	}
	if d.fill != nil { // the lists of commands, by which a node finds what it has to offer
		progress(step{What: "the lists of all images"})
		return r, d.filled(ctx, r.Images)
	}
	return r, nil
}

// filled lets nodes start from the revision of which the tier has these images now,
// once the lists are there. Of other repositories it has nothing new.
func (d *daemon) filled(ctx context.Context, images []PrefetchedImage) error {
	err := d.tree.Tried(ctx)
	for _, s := range d.sources {
		if err == nil && s.repo != nil && slices.ContainsFunc(images, func(i PrefetchedImage) bool { return i.Repository == s.repo.FQRN() }) {
			err = s.repo.Filled(ctx)
		}
	}
	return err
}

func (d *daemon) prefetchImage(ctx context.Context, name string, lock *launch.Locked, progress func(step)) (out PrefetchedImage, err error) {
	o, err := d.origin(ctx, name, lock)
	if errors.Is(err, fs.ErrNotExist) && lock != nil {
		return out, fmt.Errorf("no repository here has the image that is locked: neurodeskfs lock --check says more")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("there is no such image: neurodeskfs list shows all, neurodeskfs search finds one")
	}
	if err != nil {
		return out, err
	}
	tell := paced(progress)
	switch {
	case o.Repo == nil && d.fill != nil:
		return out, fmt.Errorf("%s is no image of a repository, and a shared tier holds nothing else", o.Build)
	case o.File != nil:
		return d.prefetchFile(ctx, o, tell)
	case o.Repo == nil:
		return PrefetchedImage{Image: o.Build, Repository: o.Source}, nil // it lies here already
	}
	var plan cvmfs.Plan
	if err := o.Repo.Add(ctx, &plan, o.Entry, func() { tell(step{What: o.Build, Objects: -1, OfBytes: plan.Bytes}) }); err != nil {
		return out, err
	}
	if err := d.hasRoom(plan.Bytes, ", or fill a shared tier with --to DIR"); err != nil {
		return out, err
	}
	done, err := o.Repo.Prefetch(ctx, &plan, func(p cvmfs.Prefetched) {
		tell(step{What: o.Build, Checked: p.Objects, Objects: plan.Objects, Bytes: p.Bytes, OfBytes: plan.Bytes, Here: p.Here})
	})
	if err != nil && ctx.Err() == nil {
		return out, fmt.Errorf("%d of %d objects are there, %d failed; the same command goes on from there: %w", done.Objects, plan.Objects, done.Failed, err)
	}
	if err == nil && done.InMemory > 0 {
		return out, fmt.Errorf("%d of %d objects are in memory only, for the disk of %s takes no more: make room there; the same command goes on from there", done.InMemory, plan.Objects, d.disk.Stats().Dir)
	}
	return PrefetchedImage{
		Image: o.Build, Repository: o.Source, Objects: done.Objects, Bytes: done.Bytes,
		Fetched: done.Objects - done.Present, FetchedBytes: done.Bytes - done.Here,
	}, err
}

// origin finds an image by its name in M/apps, one that is locked to a revision there.
func (d *daemon) origin(ctx context.Context, name string, lock *launch.Locked) (tree.Origin, error) {
	app, version, ok := strings.Cut(name, "/")
	switch {
	case lock != nil && lock.RootHash != "":
		return d.tree.LockedOrigin(ctx, lock.Place())
	case !ok:
		version = "default"
	}
	return d.tree.Origin(ctx, app, version)
}

// prefetchFile fetches an image on object storage.
func (d *daemon) prefetchFile(ctx context.Context, o tree.Origin, tell func(step)) (out PrefetchedImage, err error) {
	if err := d.hasRoom(o.File.Size(), ""); err != nil {
		return out, err
	}
	done, err := o.File.Prefetch(ctx, func(p blob.Prefetched) {
		tell(step{What: o.Build, Checked: p.Blocks, Objects: o.File.Blocks(), Bytes: p.Bytes, OfBytes: o.File.Size(), Here: p.Here})
	})
	if err != nil && ctx.Err() == nil {
		return out, fmt.Errorf("%d of %d blocks are there; the same command goes on from there: %w", done.Blocks, o.File.Blocks(), err)
	}
	return PrefetchedImage{
		Image: o.Build, Repository: o.Source, Objects: done.Blocks, Bytes: done.Bytes,
		Fetched: done.Blocks - done.Present, FetchedBytes: done.Bytes - done.Here,
	}, err
}

// hasRoom reports why an image of so many bytes cannot all be in the cache, and
// what else may be done.
func (d *daemon) hasRoom(size int64, or string) error {
	if quota := d.disk.Stats().QuotaBytes; d.fill == nil && quota > 0 && size > quota/10*8 {
		return fmt.Errorf("the image has %s, too much for a cache of %s: raise cache.quota%s", bytesText(size), bytesText(quota), or)
	}
	return nil
}
