// Command elfcompat makes an ELF program or library that was linked against a newer glibc run on an older one, where
// all it needs of the newer glibc are the __isoc23_* names: glibc 2.38 gave the C23 variants of strtol, scanf and their
// kin names of their own, and compilers use them by default, though hardly any program depends on the difference
// (binary literals such as 0b101). packaging/apptainer.sh uses it on Debian's own apptainer.
//
//	elfcompat [-glibc 2.36] FILE...
//
// Three places of the file change, none of them grows:
//
//	.dynsym          __isoc23_strtol  ->  strtol      the name's offset moves on by the length of the prefix
//	.gnu.version     GLIBC_2.38       ->  GLIBC_2.2.5 (the architecture's first glibc, where those names were born)
//	.gnu.version_r   need GLIBC_2.38  ->  need GLIBC_2.2.5, once more
//
// A file that needs anything else of a newer glibc is left as it was, and the exit status is 1: such a program
// would start and then fail at a moment that nobody can foresee. The layout is that of the System V ABI and of
// "Linux Standard Base Core, Symbol Versioning".
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	glibc := flag.String("glibc", "2.36", "newest glibc `version` that the machine offers")
	flag.Parse()
	limit, err := parseVersion(*glibc)
	if err != nil {
		fmt.Fprintf(os.Stderr, "elfcompat: -glibc: %v\n", err)
		os.Exit(2)
	}
	for _, name := range flag.Args() {
		if err := patchFile(name, limit); err != nil {
			fmt.Fprintf(os.Stderr, "elfcompat: %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

// patchFile patches one file in place and prints a line for each symbol that it renames. A file that cannot be patched,
// or need not be, is not written.
func patchFile(name string, limit version) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	changes, err := patch(raw, limit)
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		fmt.Printf("%s: needs nothing newer than glibc %d.%d\n", name, limit.major, limit.minor)
		return nil
	}
	for _, c := range changes {
		fmt.Printf("%s: %s\n", name, c)
	}
	return os.WriteFile(name, raw, 0o755) // an existing file keeps its mode
}
