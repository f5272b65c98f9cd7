package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// screenWidth is how wide a table may be.
const screenWidth = 80

// clip shortens text to width characters, the last of which then is "…".
func clip(text string, width int) string {
	switch {
	case utf8.RuneCountInString(text) <= width:
		return text
	case width < 1:
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// visible escapes what a terminal would obey: control characters, bytes that
// are no UTF-8 and characters that reorder others. Tabs become a blank.
func visible(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == '\t':
			b.WriteByte(' ')
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case !unicode.IsPrint(r) && r != ' ':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// visibles makes texts visible.
func visibles(list []string) []string {
	out := make([]string, len(list))
	for i, text := range list {
		out[i] = visible(text)
	}
	return out
}

// columns writes words below each other in as many columns as fit the screen,
// each line behind the indent.
func columns(out io.Writer, words []string, indent string) {
	width := 1
	for _, w := range words {
		width = max(width, utf8.RuneCountInString(w))
	}
	perLine := max(1, (screenWidth-len(indent)+2)/(width+2))
	rows := (len(words) + perLine - 1) / perLine
	for row := range rows {
		line := indent
		for i := row; i < len(words); i += rows {
			line += fmt.Sprintf("%-*s  ", width, words[i])
		}
		fmt.Fprintln(out, strings.TrimRight(line, " "))
	}
}

// table writes rows of equally many cells in columns two blanks apart, made
// visible. No line ends in blanks, which a reader by the last column would
// stumble over.
func table(out io.Writer, rows [][]string) error {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			cell = visible(cell)
			row[i] = cell
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += fmt.Sprintf("%-*s  ", widths[i], cell)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// pairs writes rows of two cells, the second of which may be long: it goes on in
// the lines below.
func pairs(out io.Writer, rows [][2]string) {
	width := 0
	for _, row := range rows {
		width = max(width, utf8.RuneCountInString(row[0]))
	}
	for _, row := range rows {
		wrap(out, fmt.Sprintf("%-*s  ", width, row[0]), row[1])
	}
}

// wrap writes text behind a head, and further lines below the text's beginning.
func wrap(out io.Writer, head, text string) {
	line := head
	empty := true
	for word := range strings.FieldsSeq(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > screenWidth {
			fmt.Fprintln(out, line)
			line, empty = strings.Repeat(" ", utf8.RuneCountInString(head)), true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	fmt.Fprintln(out, line)
}

// isTerminal says whether a person looks at what is written.
func isTerminal(out io.Writer) bool {
	f, ok := out.(interface{ Fd() uintptr })
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// output is stdout that keeps its first error: what prints line by line looks at
// none, and a result that a full disk has cut is no success.
type output struct {
	file *os.File
	err  error
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.file.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// Fd is for isTerminal.
func (o *output) Fd() uintptr { return o.file.Fd() }
