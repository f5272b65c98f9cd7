package catalog

import "strings"

// Expand replaces each $(NAME) and $(NAME:-default) of a variant symlink by
// what lookup has for NAME, else by the default or by nothing. The first ")"
// ends a variable; one that never ends stays as it is, and so do $NAME and
// ${NAME}. What is put in is not expanded again. lookup is called without locks.
func Expand(link string, lookup func(name string) (string, bool)) string {
	if !strings.Contains(link, "$(") {
		return link
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(link, "$(")
		variable, rest, closed := strings.Cut(after, ")")
		if !found || !closed {
			out.WriteString(link)
			return out.String()
		}
		out.WriteString(before)
		name, value, _ := strings.Cut(variable, ":-")
		if set, ok := lookup(name); ok {
			value = set
		}
		out.WriteString(value)
		link = rest
	}
}
