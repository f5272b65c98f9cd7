package tree

import "strings"

// plainBytes need no quotes in a desktop entry's Exec.
const plainBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@,+"

// desktopExec writes arguments as the value of Exec in a desktop entry (Desktop
// Entry Specification 1.5, "The Exec key"): each argument quoted, % doubled, and
// the whole escaped once more as a value of type string.
func desktopExec(args []string) string {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`, `%`, `%%`)
	var words []string
	for _, a := range args {
		if a != "" && strings.Trim(a, plainBytes) == "" {
			words = append(words, a)
			continue
		}
		words = append(words, `"`+quote.Replace(a)+`"`)
	}
	return desktopString(strings.Join(words, " "))
}

// desktopString writes s as a value of type string in a desktop entry: on one
// line, its first blank kept.
func desktopString(s string) string {
	s = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(s)
	if strings.HasPrefix(s, " ") {
		s = `\s` + s[1:]
	}
	return s
}
