package tree

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// luaString writes s as a Lua string literal (Lua 5.1, section 2.1). It stays on
// one line, whatever s holds.
func luaString(s string) string {
	return escaped(s, `"\`, `\%03d`)
}

// luaLong writes s as a Lua long string, of the lowest level that s does not
// end. Lua reads every kind of line end as "\n", and skips one at the beginning,
// so that text (which has no other control characters) comes back as it was.
func luaLong(s string) string {
	s = text(s)
	level := ""
	for strings.Contains(s+"]", "]"+level+"]") {
		level += "="
	}
	return "[" + level + "[\n" + s + "]" + level + "]"
}

// tclString writes s as one word of Tcl (Tcl(n), rules 4 to 9) that stays one
// word, on one line, inside braces too.
func tclString(s string) string {
	return escaped(s, `"\$[]{}`, `\%03o`)
}

// escaped puts s in double quotes, a backslash before each of the special
// characters, and control characters in the given form.
func escaped(s, special, control string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		c := s[i]
		switch {
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, control, c)
		case strings.IndexByte(special, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// text makes s plain text: UTF-8, lines that end in "\n", tabs, and no other
// characters that a terminal obeys.
func text(s string) string {
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.ToValidUTF8(s, "\uFFFD"))
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s)
}

// head is the beginning of s, at most n bytes, whole characters.
func head(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
