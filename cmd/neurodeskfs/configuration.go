package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/neurodesk/neurodeskfs/cmd/config"
	"github.com/neurodesk/neurodeskfs/fs"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Show and check the configuration",
		Example: "  neurodeskfs config show\n  neurodeskfs config validate /etc/neurodeskfs/config.toml",
		Args:    usage(cobra.NoArgs),
	}
	c.AddCommand(newConfigShow(), newConfigValidate())
	return c
}

func newConfigValidate() *cobra.Command {
	return &cobra.Command{
		Use:   "validate [FILE]",
		Short: "Check a configuration file without mounting",
		Long: `Reads FILE, by default the one that mount would read, and says what is wrong
with it. Keys are read as well; no server is asked.`,
		Example: "  neurodeskfs config validate\n  neurodeskfs config validate site.toml",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			f := mountFlags{config: optional(args)}
			cfg, err := f.load()
			if err != nil {
				return err
			}
			if _, _, err := verification(cfg.VerifySIF, nil, nil); err != nil {
				return err
			}
			if cfg.User != "" {
				if _, err := findServant(cfg.User); err != nil {
					return err
				}
			}
			for _, s := range cfg.Sources {
				if _, err := masterKeys(s); err != nil {
					return failf(exitUsage, "%s: %w", s.FQRN, err)
				}
				if err := checkNet(s); err != nil {
					return failf(exitUsage, "%s: %w", s.FQRN, err)
				}
			}
			name := cfg.File
			if name == "" {
				name = "the built-in configuration"
			}
			var sources []string
			for _, s := range cfg.Sources {
				sources = append(sources, s.FQRN)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is valid\nsources: %s\ncache: %s\n", name, strings.Join(sources, ", "), cfg.Cache.Dir)
			return nil
		},
	}
}

func newConfigShow() *cobra.Command {
	var f mountFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show each effective value and where it comes from",
		Long: `Shows what mount would go by: every key with its value and its origin, which is
a line of the configuration file, a flag, a default, or what is built in about
the Neurodesk repository. The output is a configuration itself.`,
		Example: "  neurodeskfs config show\n  neurodeskfs config show --config site.toml --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, list, err := config.Explain(f.config)
			if err != nil {
				return err
			}
			if err := f.override(list); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), list)
			}
			printValues(c.OutOrStdout(), cfg.File, list)
			for _, s := range cfg.Sources {
				for _, note := range s.SiteNotes {
					fmt.Fprintf(c.OutOrStdout(), "\n# %s: %s\n", s.FQRN, visible(note))
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&f.config, "config", "", "configuration `FILE` (TOML)")
	c.Flags().StringVar(&f.cache, "cache", "", "cache `DIR`, instead of the configuration's")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// override puts in the values that are known here alone: those of flags, the
// list of crawlers that stands for none, and whom root's daemon serves as.
func (f *mountFlags) override(list []config.Value) error {
	dir, err := filepath.Abs(f.cache)
	if err != nil {
		return err
	}
	for i := range list {
		switch v := &list[i]; {
		case f.cache != "" && v.Table == "cache" && v.Key == "dir":
			*v = config.Value{Table: v.Table, Key: v.Key, Value: dir, Origin: config.FromFlag, Flag: "--cache"}
		case v.Table == "mount" && v.Key == "crawlers" && v.Origin == config.FromDefault:
			v.Value, v.Origin = fs.DefaultCrawlers, config.FromBuiltIn
		case v.Key == "user" && v.Table == "" && v.Value == "":
			s, err := findServant("")
			if os.Geteuid() != 0 || err != nil {
				continue // nobody has use for it, or mount says what to do
			}
			v.Value = s.name
		}
	}
	return nil
}

// printValues writes the values as TOML with their origins as comments. What is
// empty and nobody set is left out.
func printValues(out io.Writer, file string, list []config.Value) {
	if file == "" {
		fmt.Fprintln(out, "# no configuration file; neurodeskfs mount --config FILE reads one")
	} else {
		fmt.Fprintf(out, "# lines are those of %s\n", visible(file))
	}
	last := ""
	for _, v := range list {
		if unset(v) {
			continue
		}
		header := "[" + v.Table + "]"
		switch {
		case v.Source > 0:
			header = "[[source]]"
		case strings.HasPrefix(v.Table, "app."):
			header = "[app." + tomlText(strings.TrimPrefix(v.Table, "app.")) + "]"
		}
		if at := fmt.Sprint(header, v.Source); at != last && v.Table != "" {
			fmt.Fprintf(out, "\n%s\n", header)
			last = at
		}
		origin := v.Origin
		switch v.Origin {
		case config.FromFile:
			origin = fmt.Sprintf("line %d", v.Line)
		case config.FromFlag:
			origin = v.Flag
		}
		printValue(out, v, origin)
	}
}

// unset reports whether a value is empty and nobody's choice.
func unset(v config.Value) bool {
	if v.Origin != config.FromDefault {
		return false
	}
	switch value := v.Value.(type) {
	case []string:
		return len(value) == 0
	case map[string]string:
		return len(value) == 0
	}
	return v.Value == "" || v.Value == false || v.Value == uint64(0)
}

func printValue(out io.Writer, v config.Value, origin string) {
	if v.Key == "user" && v.Table == "" && v.Origin == config.FromDefault {
		fmt.Fprintf(out, "# user: %v, else root without capabilities # %s\n", v.Value, origin) // a name in the file has no else
		return
	}
	text := fmt.Sprint(v.Value)
	switch value := v.Value.(type) {
	case []string:
		switch {
		case len(value) > 0:
			fmt.Fprintf(out, "%s = [ # %s\n", v.Key, origin)
			line := " "
			for _, s := range value {
				word := " " + tomlText(s) + ","
				if line != " " && len(line)+len(word) > screenWidth {
					fmt.Fprintln(out, line)
					line = " "
				}
				line += word
			}
			fmt.Fprintf(out, "%s\n]\n", line)
			return
		case v.Origin == config.FromBuiltIn:
			fmt.Fprintf(out, "# %s: the Neurodesk repository's own # %s\n", v.Key, origin)
			return
		}
		text = "[]"
	case map[string]string:
		var pairs []string
		for _, name := range slices.Sorted(maps.Keys(value)) {
			pairs = append(pairs, name+" = "+tomlText(value[name]))
		}
		text = "{ " + strings.Join(pairs, ", ") + " }"
	case string:
		text = tomlText(value)
	}
	line := v.Key + " = " + text
	if utf8.RuneCountInString(line)+len(origin)+len("  # ") > screenWidth {
		fmt.Fprintf(out, "# %s\n%s\n", origin, line)
		return
	}
	fmt.Fprintf(out, "%-40s  # %s\n", line, origin)
}

// tomlText is a basic string of TOML.
func tomlText(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}
