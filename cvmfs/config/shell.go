package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// maxFile bounds a configuration file, and maxValue what one setting may
	// grow to by its references, bytes.
	maxFile  = 1 << 20
	maxValue = 16 << 10
	// maxKeys bounds how many names a note lists.
	maxKeys = 50
)

var errQuote = errors.New("a quote is not closed")

// reader takes assignments out of a shell script without running it.
type reader struct {
	text string
	i    int // next byte
	line int // of i, from 1

	get  func(key string) (string, bool)
	set  func(key, value string, line int)
	tell func(line int, format string, args ...any) // of what is passed over

	mute  int // while it is not 0, nothing is set or told
	depth int // of ifs
}

func (r *reader) note(line int, format string, args ...any) {
	if r.mute == 0 {
		r.tell(line, format, args...)
	}
}

// words that open a block, and what closes it.
var blocks = map[string]string{"if": "fi", "case": "esac", "for": "done", "while": "done", "until": "done", "{": "}", "(": ")"}

// read goes through the whole text. An error ends it: what follows cannot be
// told from what is inside a quote or a block.
func (r *reader) read() error {
	if len(r.text) > maxFile {
		return fmt.Errorf("it has more than %d bytes", maxFile)
	}
	r.line = 1
	for {
		r.blank(true)
		if r.i == len(r.text) {
			return nil
		}
		line := r.line
		if err := r.command(); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

func (r *reader) peek() byte {
	if r.i < len(r.text) {
		return r.text[r.i]
	}
	return 0
}

// next takes one byte.
func (r *reader) next() byte {
	c := r.text[r.i]
	r.i++
	if c == '\n' {
		r.line++
	}
	return c
}

// blank passes over blanks and comments, and, with ends, over ends of commands.
func (r *reader) blank(ends bool) {
	for r.i < len(r.text) {
		switch c := r.peek(); {
		case c == ' ', c == '\t', c == '\r':
		case ends && (c == '\n' || c == ';'):
		case c == '\\' && strings.HasPrefix(r.text[r.i:], "\\\n"):
			r.next()
		case c == '#':
			for r.i < len(r.text) && r.peek() != '\n' {
				r.next()
			}
			continue
		default:
			return
		}
		r.next()
	}
}

func isName(c byte, first bool) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || !first && '0' <= c && c <= '9'
}

// name returns the name at i, "" if there is none.
func (r *reader) name() string {
	j := r.i
	for j < len(r.text) && isName(r.text[j], j == r.i) {
		j++
	}
	return r.text[r.i:j]
}

type assignment struct {
	key, value string
	line       int
}

// command reads one command: assignments, or anything else, of which is noted
// that it is passed over.
func (r *reader) command() error {
	var found []assignment
	for {
		r.blank(false)
		line, name := r.line, r.name()
		end := r.i + len(name)
		switch {
		case r.i == len(r.text), strings.IndexByte("\n;", r.peek()) >= 0:
			for _, a := range found {
				if r.mute == 0 {
					r.set(a.key, a.value, a.line)
				}
			}
			return nil
		case name != "" && end < len(r.text) && r.text[end] == '=':
			r.i = end + 1
			value, odd, err := r.value()
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if odd != "" {
				r.note(line, "%s is passed over: its value needs a shell (%s)", name, odd)
				return r.rest()
			}
			found = append(found, assignment{name, value, line})
		case (name == "export" || name == "readonly") && end < len(r.text) && (r.text[end] == ' ' || r.text[end] == '\t'):
			r.i = end
		case name == "return" && r.mute == 0 && r.ends(end):
			r.i = len(r.text)
			return nil
		case name == "if" && len(found) == 0 && r.ends(end):
			if ok, err := r.conditional(); ok || err != nil {
				return err
			}
			return r.other(nil)
		default:
			return r.other(found)
		}
	}
}

// ends reports whether no word goes on at i.
func (r *reader) ends(i int) bool {
	return i == len(r.text) || strings.IndexByte(" \t\r\n;", r.text[i]) >= 0
}

// other passes over a command that is no assignment, with those in front of it,
// which are for that command alone.
func (r *reader) other(found []assignment) error {
	line, start := r.line, r.i
	if first := r.name(); blocks[first] != "" || r.peek() == '{' || r.peek() == '(' {
		keys, err := r.block()
		what := first
		if what == "" {
			what = "{ }"
		}
		r.noteBlock(line, what, keys)
		return err
	}
	if err := r.rest(); err != nil {
		return err
	}
	text := strings.TrimSpace(r.text[start:r.i])
	for _, a := range found {
		text = a.key + "=... " + text
	}
	r.note(line, "%.60q is passed over: no shell is run", text)
	return nil
}

func (r *reader) noteBlock(line int, what string, keys []string) {
	if len(keys) == 0 {
		r.note(line, "a block (%s) is passed over: no shell is run", what)
		return
	}
	r.note(line, "a block (%s) is passed over: no shell is run; set what it would set in a .local file: %s", what, strings.Join(keys, " "))
}

// rest goes to the end of the line, and on where a quote, a block or a && makes
// it longer.
func (r *reader) rest() error {
	_, err := r.scan(false)
	return err
}

// block goes to the end of the block that begins at i, and returns the names
// that are set in it.
func (r *reader) block() ([]string, error) { return r.scan(true) }

// scan passes over words. With block it ends with the end of the block that
// begins here, else at the end of the line.
func (r *reader) scan(block bool) (keys []string, err error) {
	var open []string // what closes the blocks that we are in, the outermost first
	start, more := true, false
	for r.i < len(r.text) {
		switch c := r.peek(); {
		case c == '\n' && len(open) == 0 && !more:
			return keys, nil
		case strings.IndexByte(" \t\r#", c) >= 0, strings.HasPrefix(r.text[r.i:], "\\\n"):
			r.blank(false)
			continue
		case strings.HasPrefix(r.text[r.i:], "<<"):
			return keys, errors.New("a here document cannot be read without a shell")
		case strings.IndexByte("\n;&|()", c) >= 0:
			more = c == '&' || c == '|' || c == '\n' && more
			r.next()
			start = true
			if c == '(' {
				open = append(open, ")")
			} else if c == ')' && len(open) > 0 && open[len(open)-1] == ")" {
				open = open[:len(open)-1]
			}
		default:
			more = false
			word, err := r.word()
			if err != nil {
				return keys, err
			}
			open, keys = nest(open, keys, word, start)
			start = start && slices.Contains([]string{"then", "else", "elif", "do", "{", "!", "if", "while", "until", "export"}, word) || word == "{"
		}
		if block && len(open) == 0 {
			return keys, nil
		}
	}
	if len(open) > 0 {
		return keys, fmt.Errorf("%q is missing", open[len(open)-1])
	}
	return keys, nil
}

// nest sees what a word opens, closes or sets.
func nest(open, keys []string, word string, start bool) ([]string, []string) {
	if word == "{" { // also behind f()
		return append(open, "}"), keys
	}
	if !start {
		return open, keys
	}
	if len(open) > 0 && word == open[len(open)-1] {
		return open[:len(open)-1], keys
	}
	if end := blocks[word]; end != "" {
		return append(open, end), keys
	}
	if key, _, ok := strings.Cut(word, "="); ok && key != "" && len(keys) < maxKeys && (&reader{text: key}).name() == key && !slices.Contains(keys, key) {
		keys = append(keys, key)
	}
	return open, keys
}

// word passes over one word and returns it as it is written.
func (r *reader) word() (string, error) {
	begin := r.i
	for r.i < len(r.text) && strings.IndexByte(" \t\r\n;&|()", r.peek()) < 0 {
		switch c := r.next(); c {
		case '\\':
			if r.i < len(r.text) {
				r.next()
			}
		case '\'', '"':
			if err := r.closeQuote(c); err != nil {
				return "", err
			}
		}
	}
	return r.text[begin:r.i], nil
}

func (r *reader) closeQuote(quote byte) error {
	for r.i < len(r.text) {
		c := r.next()
		if c == quote {
			return nil
		}
		if c == '\\' && quote == '"' && r.i < len(r.text) {
			r.next()
		}
	}
	return errQuote
}
