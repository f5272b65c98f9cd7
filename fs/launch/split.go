package launch

import (
	"errors"
	"strings"
)

// ErrUnbalanced is returned by Split for a text that ends inside a quote or after a backslash.
var ErrUnbalanced = errors.New("unbalanced quotes")

// Split cuts a text into words as a POSIX shell does with blanks, newlines, quotes and backslashes. Nothing is expanded:
// `$`, backquotes, globs, `;` and `#` stand for themselves.
func Split(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	for i := 0; i < len(text); {
		n := 1
		switch c := text[i]; c {
		case ' ', '\t', '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		case '\'':
			end := strings.IndexByte(text[i+1:], '\'')
			if end < 0 {
				return nil, ErrUnbalanced
			}
			word.WriteString(text[i+1 : i+1+end])
			inWord, n = true, end+2
		case '"':
			used, ok := doubleQuoted(&word, text[i+1:])
			if !ok {
				return nil, ErrUnbalanced
			}
			inWord, n = true, used+1
		case '\\':
			if i+1 == len(text) {
				return nil, ErrUnbalanced
			}
			n = 2
			if text[i+1] != '\n' { // backslash newline joins two lines
				word.WriteByte(text[i+1])
				inWord = true
			}
		default:
			word.WriteByte(c)
			inWord = true
		}
		i += n
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// doubleQuoted copies up to the closing quote and tells how many bytes it used, that quote included.
func doubleQuoted(word *strings.Builder, text string) (int, bool) {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i + 1, true
		case '\\':
			if i++; i == len(text) {
				return 0, false
			}
			if !strings.ContainsRune("$`\"\\\n", rune(text[i])) {
				word.WriteByte('\\')
			}
			if text[i] != '\n' {
				word.WriteByte(text[i])
			}
		default:
			word.WriteByte(text[i])
		}
	}
	return 0, false
}

// Quote writes a word so that a POSIX shell reads back exactly that word.
func Quote(word string) string {
	if word == "" {
		return "''"
	}
	for i := 0; i < len(word); i++ {
		c := word[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-./:=,@%+", c) >= 0 {
			continue
		}
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}
