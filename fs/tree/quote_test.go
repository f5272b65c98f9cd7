package tree

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// awkward are texts that try to break out of a quotation.
var awkward = []string{
	"", "plain", `say "hi"`, `back\slash\`, "two\nlines\r\nthree\r", "]]", "]=]", "]", "a]==", "]]]=]]==]", "--[[", "\n", "$(reboot) `x` ${y} $z",
	"[exec reboot]", "}{", "}", "{", "{{", `\}`, `\{`, "a;b#c", "\x00\x01\x7f9", "naïve 漢字", "\xff\xfe", "%f %% %", " leading", "tab\tend", `"; os.execute("reboot") --`,
}

// readLua reads a Lua string literal or long string, and returns what is behind it.
func readLua(t *testing.T, s string) (value, rest string) {
	t.Helper()
	if level := strings.IndexByte(s[1:], '['); s[0] == '[' && level == strings.Count(s[1:1+level], "=") {
		open := s[:level+2]
		value, rest, ok := strings.Cut(s[len(open):], strings.ReplaceAll(open, "[", "]"))
		if !ok {
			t.Fatalf("%q has no end", s)
		}
		return strings.TrimPrefix(value, "\n"), rest
	}
	return readQuoted(t, s, 10)
}

// readQuoted reads a text in double quotes with backslash escapes; a number
// behind a backslash has three digits.
func readQuoted(t *testing.T, s string, base int) (value, rest string) {
	t.Helper()
	if s == "" || s[0] != '"' {
		t.Fatalf("%q is not quoted", s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\n' || c == '\r' || c == 0:
			t.Fatalf("%q has a bare %q", s, c)
		case base == 8 && strings.IndexByte("$[]{}", c) >= 0:
			t.Fatalf("%q has a bare %q", s, c)
		case c == '\\' && i+3 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			n := 0
			for _, d := range []byte(s[i+1 : i+4]) {
				n = n*base + int(d-'0')
			}
			b.WriteByte(byte(n))
			i += 3
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	t.Fatalf("%q has no end", s)
	return "", ""
}

func checkLua(t *testing.T, s string) {
	if got, rest := readLua(t, luaString(s)+" tail"); got != s || rest != " tail" {
		t.Errorf("%q became %s, which is %q with %q behind it", s, luaString(s), got, rest)
	}
	if got, rest := readLua(t, luaLong(s)+")\n"); got != text(s) || rest != ")\n" {
		t.Errorf("%q became %s, which is %q with %q behind it", s, luaLong(s), got, rest)
	}
	if plain := text(s); !utf8.ValidString(plain) || strings.ContainsAny(plain, "\x00\r\x7f") || text(plain) != plain {
		t.Errorf("%q is plain text as %q?", s, plain)
	}
}

func checkTcl(t *testing.T, s string) {
	if got, rest := readQuoted(t, tclString(s)+"]}", 8); got != s || rest != "]}" {
		t.Errorf("%q became %s, which is %q with %q behind it", s, tclString(s), got, rest)
	}
}

func TestQuotingComesBack(t *testing.T) {
	for _, s := range awkward {
		checkLua(t, s)
		checkTcl(t, s)
	}
}

func FuzzLua(f *testing.F) {
	for _, s := range awkward {
		f.Add(s)
	}
	f.Fuzz(checkLua)
}

func FuzzTcl(f *testing.F) {
	for _, s := range awkward {
		f.Add(s)
	}
	f.Fuzz(checkTcl)
}

// TestTextIsObeyedByNoTerminal: READMEs are shown by module help.
func TestTextIsObeyedByNoTerminal(t *testing.T) {
	if got := text("a\x1b[2J\u009b31m\u202eb\tä\r\nz"); got != "a[2J31mb\tä\nz" {
		t.Errorf("%q", got)
	}
}

func TestHeadKeepsWholeCharacters(t *testing.T) {
	for n, want := range []string{"", "a", "a", "aé", "aéz", "aéz"} {
		if got := head("aéz", n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
