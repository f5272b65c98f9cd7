package config

import (
	"errors"
	"fmt"
	"strings"
)

var errLong = fmt.Errorf("the value has more than %d bytes", maxValue)

// value reads an assignment's value up to the blank or operator that ends it. odd
// says what in it needs a shell; then i is somewhere within.
func (r *reader) value() (value, odd string, err error) {
	var b strings.Builder
	for r.i < len(r.text) && strings.IndexByte(" \t\r\n;&|<>)", r.peek()) < 0 {
		switch c := r.next(); c {
		case '\'':
			begin := r.i
			if err := r.closeQuote('\''); err != nil {
				return "", "", err
			}
			b.WriteString(r.text[begin : r.i-1])
		case '"':
			odd, err = r.quoted(&b)
		case '\\':
			if r.i < len(r.text) {
				if c := r.next(); c != '\n' {
					b.WriteByte(c)
				}
			}
		case '$':
			odd, err = r.reference(&b)
		case '`':
			odd = "a command's output"
		case '(':
			odd = "an array"
		default:
			b.WriteByte(c)
		}
		if b.Len() > maxValue {
			err = errLong
		}
		if odd != "" || err != nil {
			return "", odd, err
		}
	}
	return b.String(), "", nil
}

// quoted reads what is between double quotes, of which the first is taken.
func (r *reader) quoted(b *strings.Builder) (odd string, err error) {
	for r.i < len(r.text) {
		switch c := r.next(); c {
		case '"':
			return odd, nil
		case '\\':
			if r.i == len(r.text) {
				return "", errQuote
			}
			c = r.next()
			if strings.IndexByte("$`\"\\\n", c) < 0 {
				b.WriteByte('\\')
			}
			if c != '\n' {
				b.WriteByte(c)
			}
		case '$':
			why, err := r.reference(b)
			if err != nil {
				return "", err
			}
			if why != "" {
				odd = why // and on to the end of the quote
			}
		case '`':
			odd = "a command's output"
		default:
			b.WriteByte(c)
		}
		if b.Len() > maxValue {
			return "", errLong
		}
	}
	return "", errQuote
}

// reference puts in what $NAME, ${NAME} or ${NAME:-default} stands for. The $
// is taken.
func (r *reader) reference(b *strings.Builder) (odd string, err error) {
	switch c := r.peek(); {
	case c == '(':
		return "a command's output", nil
	case c == '{':
		return r.braced(b)
	case isName(c, true):
		b.WriteString(r.lookup(r.take()))
	case c != 0 && strings.IndexByte("0123456789@*#?!-$", c) >= 0:
		return "a parameter of the shell", nil
	default:
		b.WriteByte('$')
	}
	return "", nil
}

// take returns the name at i and goes behind it.
func (r *reader) take() string {
	name := r.name()
	r.i += len(name)
	return name
}

func (r *reader) braced(b *strings.Builder) (odd string, err error) {
	r.next()
	name := r.take()
	end := strings.IndexByte(r.text[r.i:], '}')
	if end < 0 {
		return "", errors.New("a } is missing")
	}
	inside := r.text[r.i : r.i+end]
	for range end + 1 {
		r.next()
	}
	colon, isDefault := strings.CutPrefix(inside, ":-")
	if !isDefault {
		colon, isDefault = strings.CutPrefix(inside, "-")
	}
	switch {
	case name == "", inside != "" && !isDefault, strings.ContainsAny(inside, "$`\\{"):
		return "${" + name + inside + "}", nil
	case inside == "":
		b.WriteString(r.lookup(name))
		return "", nil
	}
	value, set := r.get(name)
	if !set || value == "" && inside[0] == ':' {
		value = strings.Trim(colon, `"'`)
	}
	b.WriteString(value)
	return "", nil
}

// lookup is the value of a name that was set before, "" of any other: the
// environment is not looked at.
func (r *reader) lookup(name string) string {
	value, set := r.get(name)
	if !set {
		r.note(r.line, "$%s is not set: taken as empty", name)
	}
	return value
}
