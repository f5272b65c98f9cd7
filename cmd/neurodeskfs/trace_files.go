package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/fs/trace"
)

func newTraceExport() *cobra.Command {
	var mount string
	c := &cobra.Command{
		Use:   "export FILE|DIR|-",
		Short: "Write the traces of a mount to a file",
		Long: `Writes all traces of a mount to FILE, to standard output for "-", or, where DIR
is a directory, one file IMAGE.json for each image into it, as the
configuration's traces = "DIR or URL" wants them. A file of DIR that is there
keeps the traces that the mount has not.`,
		Example: "  neurodeskfs trace export traces.json\n  neurodeskfs trace export /shared/neurodesk/traces",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := exported(c.Context(), mount)
			if err != nil {
				return err
			}
			if info, err := os.Stat(args[0]); err == nil && info.IsDir() {
				return exportDir(args[0], list)
			}
			text, err := trace.Format(list)
			if err == nil && args[0] == "-" {
				_, err = c.OutOrStdout().Write(text)
				return err
			}
			if err == nil {
				err = os.WriteFile(args[0], text, 0o644)
			}
			return err
		},
	}
	mountFlag(c, &mount)
	return c
}

// exportDir merges traces into the files of a directory, one for each image.
func exportDir(dir string, list []trace.Trace) error {
	byImage := map[string][]trace.Trace{}
	for _, t := range list {
		byImage[t.Image] = append(byImage[t.Image], t)
	}
	for id, news := range byImage {
		file := filepath.Join(dir, id+".json")
		text, err := readTraces(file)
		if err != nil {
			return err
		}
		var olds []trace.Trace
		if text != nil {
			if olds, err = trace.Parse(text); err != nil {
				return fmt.Errorf("%s: %w: move it away", file, err)
			}
		}
		if text, err = trace.Format(trace.Union(olds, news)); err != nil {
			return err
		}
		if err := replaceFile(file, text); err != nil {
			return err
		}
	}
	return nil
}

func newTraceImport() *cobra.Command {
	var mount string
	c := &cobra.Command{
		Use:   "import FILE|- ...",
		Short: "Take traces from files",
		Long: `Merges the traces in files that 'trace export' wrote into those of a mount. They
are used when their commands start next. A wrong trace costs bandwidth, up to
512 MiB a start; what is fetched is verified like everything else.`,
		Example: "  neurodeskfs trace import traces.json\n  ssh head neurodeskfs trace export - | neurodeskfs trace import -",
		Args:    usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			for _, name := range args {
				in := c.InOrStdin()
				if name != "-" {
					f, err := os.Open(name)
					if err != nil {
						return err
					}
					defer f.Close()
					in = f
				}
				text, err := io.ReadAll(io.LimitReader(in, trace.MaxFile+1))
				if err == nil {
					_, err = trace.Parse(text) // the message names the file
				}
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				r := controlRequest{Do: "trace import", Trace: &traceRequest{File: json.RawMessage(text)}}
				if _, err := askTraces(c.Context(), mount, r, bar{}); err != nil {
					return err
				}
			}
			return nil
		},
	}
	mountFlag(c, &mount)
	return c
}
