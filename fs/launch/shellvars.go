package launch

import "strings"

// shellVars follows plain assignments in a shell script. Whatever is not a plain assignment makes it give up: a wrong
// guess would keep a command from running.
type shellVars struct {
	values  map[string]string
	outside func(name string) bool // set by the caller, not by the image
}

// script reads one file and tells whether all of it was understood.
func (s *shellVars) script(text string) bool {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		rest, exported := strings.CutPrefix(line, "export ")
		if !s.assignments(strings.TrimSpace(rest), exported) {
			return false
		}
	}
	return true
}

// assignments reads `A=1 B="two"; export A`, and after export also bare names.
func (s *shellVars) assignments(line string, exported bool) bool {
	for line != "" && line[0] != '#' {
		n := 0
		for n < len(line) && nameByte(line[n], n) {
			n++
		}
		if n == 0 {
			return false
		}
		name := line[:n]
		line = line[n:]
		if strings.HasPrefix(line, "=") {
			value, rest, ok := s.word(line[1:], false)
			if !ok {
				return false
			}
			s.values[name] = value
			line = rest
		} else if !exported {
			return false // a command
		}
		trimmed := strings.TrimLeft(line, " \t")
		if rest, ok := strings.CutPrefix(trimmed, ";"); ok {
			trimmed, exported = strings.CutPrefix(strings.TrimLeft(rest, " \t"), "export ")
			trimmed = strings.TrimLeft(trimmed, " \t")
		} else if trimmed != "" && trimmed == line {
			return false
		}
		line = trimmed
	}
	return true
}

// word expands one word; inBrace, it ends at the closing brace of ${NAME:-word}, else at a blank or semicolon.
func (s *shellVars) word(text string, inBrace bool) (value, rest string, ok bool) {
	var out strings.Builder
	quoted := false
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
			i++
		case c == '}' && inBrace && !quoted:
			return out.String(), text[i+1:], true
		case !quoted && !inBrace && strings.IndexByte(" \t;", c) >= 0:
			return out.String(), text[i:], true
		case c == '\'' && !quoted:
			end := strings.IndexByte(text[i+1:], '\'')
			if end < 0 {
				return "", "", false
			}
			out.WriteString(text[i+1 : i+1+end])
			i += end + 2
		case c == '$':
			v, n, ok := s.expand(text[i+1:])
			if !ok {
				return "", "", false
			}
			out.WriteString(v)
			i += 1 + n
		case c == '\\' || c == '`' || !quoted && strings.IndexByte("|&<>()~*?[{ \t;", c) >= 0:
			return "", "", false // also: blanks in an unquoted default, which are rare and tricky
		default:
			out.WriteByte(c)
			i++
		}
	}
	return out.String(), "", !quoted && !inBrace
}

// expand reads what follows a dollar sign: NAME, {NAME}, {NAME:-word} or {NAME-word}. n is how much of text it used.
func (s *shellVars) expand(text string) (value string, n int, ok bool) {
	brace := strings.HasPrefix(text, "{")
	if brace {
		n = 1
	}
	start := n
	for n < len(text) && nameByte(text[n], n-start) {
		n++
	}
	name := text[start:n]
	if name == "" || s.outside(name) {
		return "", 0, false
	}
	value, set := s.values[name]
	if !brace {
		return value, n, set
	}
	tail := text[n:]
	if strings.HasPrefix(tail, "}") {
		return value, n + 1, set
	}
	colon := strings.HasPrefix(tail, ":-")
	if !colon && !strings.HasPrefix(tail, "-") {
		return "", 0, false
	}
	tail = strings.TrimPrefix(tail, ":")[1:]
	word, rest, ok := s.word(tail, true)
	if !ok {
		return "", 0, false
	}
	if !set || colon && value == "" {
		value = word
	}
	return value, len(text) - len(rest), true
}

// nameByte tells whether c may stand at place i of a variable's name.
func nameByte(c byte, i int) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9'
}

// validName tells whether a shell would take name as a variable.
func validName(name string) bool {
	for i := 0; i < len(name); i++ {
		if !nameByte(name[i], i) {
			return false
		}
	}
	return name != ""
}
