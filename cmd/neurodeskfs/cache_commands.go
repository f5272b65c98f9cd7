package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/cmd/config"
)

func newCacheList() *cobra.Command {
	var p cachePlace
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the objects, most recently used first, and the pins",
		Long: `Lists what is in the cache: each object's key, the size of its content and when
it was used last. An object is a file or a part of a file of a repository, under
its content hash.`,
		Example: "  neurodeskfs cache list | head\n  neurodeskfs cache list --json | jq .pins",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			l, _, err := onCache[CacheListing](c.Context(), &p, controlRequest{Do: "cache list"}, nil)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), l)
			}
			l.print(c.OutOrStdout())
			return nil
		},
	}
	p.addFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// print writes the table, 80 columns wide.
func (l CacheListing) print(out io.Writer) {
	fmt.Fprintf(out, "%-45s %9s  %-16s %s\n", "KEY", "SIZE", "LAST USED", "STATE")
	for _, o := range l.Objects {
		state := ""
		switch {
		case len(o.Owners) > 0:
			state = "pinned"
		case o.InUse:
			state = "in use"
		}
		line := fmt.Sprintf("%-45s %9s  %-16s %s", clip(o.Key, 45), bytesText(o.Size), o.LastUsed.Local().Format("2006-01-02 15:04"), state)
		fmt.Fprintln(out, strings.TrimRight(line, " "))
	}
	fmt.Fprintf(out, "%d objects, %s of %s on disk\n", len(l.Objects), bytesText(l.Used), bytesText(l.Quota))
	for _, p := range l.Pins {
		fmt.Fprintf(out, "pinned by %s: %d objects, %s", clip(p.Owner, 40), p.Objects, bytesText(p.Bytes))
		if p.Absent > 0 {
			fmt.Fprintf(out, "; %d more are not there", p.Absent)
		}
		fmt.Fprintln(out)
	}
}

func newCacheVerify() *cobra.Command {
	var p cachePlace
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Read every object and remove the damaged ones",
		Long: `Reads every object and compares it with its sums. Damaged ones are removed and
named; they are fetched again when they are next read, and what the kernel keeps
of them is dropped. Exit status 1 if an object was damaged or could not be read.
A mount goes on working meanwhile.`,
		Example: "  neurodeskfs cache verify\n  neurodeskfs cache verify --cache /scratch/nd-cache",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			bar := newBar(c.ErrOrStderr())
			r, _, err := onCache[CacheReport](c.Context(), &p, controlRequest{Do: "cache verify"}, bar.show)
			bar.clear()
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(c.OutOrStdout(), r)
			} else {
				r.print(c.OutOrStdout())
			}
			if err == nil && len(r.Damaged)+len(r.Unreadable) > 0 {
				return failf(exitFailure, "the cache had %d damaged and %d unreadable objects: look at the disk (dmesg, smartctl)", len(r.Damaged), len(r.Unreadable))
			}
			return err
		},
	}
	p.addFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (r CacheReport) print(out io.Writer) {
	for _, key := range r.Damaged {
		fmt.Fprintf(out, "damaged, removed: %s\n", key)
	}
	for _, key := range r.Unreadable {
		fmt.Fprintf(out, "cannot be read: %s\n", key)
	}
	fmt.Fprintf(out, "checked %d objects, %s: ", r.Checked, bytesText(r.Bytes))
	if len(r.Damaged)+len(r.Unreadable) == 0 {
		fmt.Fprintln(out, "all are sound")
		return
	}
	fmt.Fprintf(out, "%d damaged, %d cannot be read\n", len(r.Damaged), len(r.Unreadable))
}

// bar is a line of progress that is drawn over and over; on what is no terminal
// it is nothing.
type bar struct{ out io.Writer }

func newBar(out io.Writer) bar {
	if isTerminal(out) {
		return bar{out}
	}
	return bar{}
}

func (b bar) show(p step) {
	if b.out == nil {
		return
	}
	const width = 30
	done := 0
	if p.Objects > 0 {
		done = min(width, width*p.Checked/p.Objects)
	}
	fmt.Fprintf(b.out, "\r\x1b[K[%s%s] %d of %d, %s", strings.Repeat("=", done), strings.Repeat(" ", width-done), p.Checked, p.Objects, bytesText(p.Bytes))
}

func (b bar) clear() {
	if b.out != nil {
		fmt.Fprint(b.out, "\r\x1b[K")
	}
}

// sizeFlag is a flag such as 20GiB.
type sizeFlag struct {
	bytes config.Size
	set   bool
}

func (s *sizeFlag) String() string { return "" }
func (s *sizeFlag) Type() string   { return "SIZE" }
func (s *sizeFlag) Set(text string) error {
	s.set = true
	return s.bytes.UnmarshalText([]byte(text))
}

// pruneShare is where prune stops when no size is given, percent of the quota:
// as far as a mount prunes on its own.
const pruneShare = 80

func newCachePrune() *cobra.Command {
	var p cachePlace
	var to sizeFlag
	var asJSON bool
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what was not used for longest",
		Long: `Removes objects, those that were not used for longest first, until the cache
takes no more than SIZE on disk, by default 80 % of its quota. Objects that are
pinned or in use stay.`,
		Example: "  neurodeskfs cache prune\n  neurodeskfs cache prune --to 5GiB",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			r := controlRequest{Do: "cache prune", Target: int64(to.bytes)}
			if !to.set {
				place, err := p.find()
				if err != nil {
					return err
				}
				r.Target = int64(place.Quota) / 100 * pruneShare
			}
			return remove(c, &p, r, asJSON)
		},
	}
	p.addFlags(c)
	c.Flags().Var(&to, "to", "the `SIZE` to come down to, for example 5GiB")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newCacheClear() *cobra.Command {
	var p cachePlace
	var all, asJSON bool
	c := &cobra.Command{
		Use:   "clear",
		Short: "Remove everything that is neither pinned nor in use",
		Long: `Empties the cache. What is read afterwards is fetched anew. Pinned objects stay
unless --all is given, which ends the pins too; those in use always stay.`,
		Example: "  neurodeskfs cache clear\n  neurodeskfs cache clear --all --cache /scratch/nd-cache",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return remove(c, &p, controlRequest{Do: "cache clear", All: all}, asJSON)
		},
	}
	p.addFlags(c)
	c.Flags().BoolVar(&all, "all", false, "remove pinned objects too")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// remove has objects removed and says what went.
func remove(c *cobra.Command, p *cachePlace, r controlRequest, asJSON bool) error {
	removal, text, err := onCache[CacheRemoval](c.Context(), p, r, nil)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), removal)
	}
	fmt.Fprintln(c.OutOrStdout(), text)
	return nil
}

func newCachePin() *cobra.Command {
	return keyCommand("pin", "Keep an object from being removed to make room", "The object need not be there yet.")
}

func newCacheUnpin() *cobra.Command {
	return keyCommand("unpin", "End the pin of an object", "Pins that others made, such as a prefetch, stay.")
}

// keyCommand is a command about one object.
func keyCommand(name, short, long string) *cobra.Command {
	var p cachePlace
	c := &cobra.Command{
		Use:     name + " KEY",
		Short:   short,
		Long:    short + ".\n" + long + "\nneurodeskfs cache list --json shows the keys.",
		Example: "  neurodeskfs cache " + name + " 2b66fd261ee5c6cfc8de7fa466bab600bcfe4f69",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			_, text, err := onCache[struct{}](c.Context(), &p, controlRequest{Do: "cache " + name, Key: args[0]}, nil)
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), text)
			}
			return err
		},
	}
	p.addFlags(c)
	return c
}
