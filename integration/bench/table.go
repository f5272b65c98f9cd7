package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// width is that of a terminal.
const width = 80

// print writes the table and what is to be said besides. No line is wider than a
// terminal.
func (r *report) print(out io.Writer) error {
	var t strings.Builder
	m := r.Machine
	wrap(&t, fmt.Sprintf("%d cores (%s), Linux %s, %s; mounted and run by %s; load at start %s", m.Cores, m.CPU, m.Kernel, m.Apptainer, m.Account, m.Load), "")
	t.WriteByte('\n')
	writeLine(&t, "case", "ours", "peer", "", "rat.", "bytes", "reqs", "aim", "")
	last := ""
	for _, w := range r.Rows {
		if w.Case != last {
			fmt.Fprintln(&t, w.Case)
		}
		last = w.Case
		w.write(&t)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Failed)) {
		writeLine(&t, name, "FAILED", "see below")
	}
	r.remarks(&t)
	_, err := io.WriteString(out, t.String())
	return err
}

// writeLine writes a line of the table: name, ours, peer's figure and name, ratio,
// bytes, requests, aim, verdict.
func writeLine(t *strings.Builder, columns ...string) {
	columns = append(columns, make([]string, 9-len(columns))...)
	var line strings.Builder
	for i, format := range []string{"%-21.21s", " %8s", " %8s", " %-10.10s", " %4s", " %6s", " %4s", " %9s", " %s"} {
		fmt.Fprintf(&line, format, columns[i])
	}
	fmt.Fprintln(t, strings.TrimRight(line.String(), " "))
}

// write writes the row: its further aims have lines of their own.
func (w *row) write(t *strings.Builder) {
	columns := []string{"  " + w.Name, figure(w.Ours, w.Unit), "", w.Peer, "", "", ""}
	if w.Peer != "" {
		columns[2], columns[4] = figure(w.PeerFigure, w.Unit), digits(w.Ratio)
	}
	if w.Bytes >= 0 {
		columns[5] = megabytes(float64(w.Bytes))
	}
	if w.Requests >= 0 {
		columns[6] = fmt.Sprint(w.Requests)
	}
	for _, g := range w.Aims {
		writeLine(t, append(columns, g.short(w.Unit), map[bool]string{true: "ok", false: "NO"}[g.Met])...)
		columns = make([]string, len(columns))
	}
	if len(w.Aims) == 0 {
		writeLine(t, columns...)
	}
}

// remarks are the aims, the memory, and what is missing.
func (r *report) remarks(t *strings.Builder) {
	var missed []string
	met := 0
	for _, w := range r.Rows {
		for _, g := range w.Aims {
			if g.Met {
				met++
				continue
			}
			missed = append(missed, fmt.Sprintf("%s %s: %s", w.Case, w.Name, g.text(w.Unit)))
		}
	}
	fmt.Fprintf(t, "\naims: %d met, %d missed\n", met, len(missed))
	for _, line := range missed {
		wrap(t, line, "  ")
	}
	if len(r.Memory) > 0 {
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(r.Memory)) {
			parts = append(parts, fmt.Sprintf("%s %s", name, megabytes(float64(r.Memory[name]))))
		}
		wrap(t, "the daemon's memory, at most: "+strings.Join(parts, ", "), "")
	}
	for title, list := range map[string]map[string]string{"missing": r.Missing, "skipped": r.Skipped, "FAILED": r.Failed} {
		for _, name := range slices.Sorted(maps.Keys(list)) {
			wrap(t, fmt.Sprintf("%s: %s: %s", title, name, list[name]), "")
		}
	}
}

func (g *goal) text(unit string) string {
	word := "at most"
	if g.Least {
		word = "at least"
	}
	return fmt.Sprintf("%s is %s, aim: %s %s", g.Of, g.figure(g.Got, unit), word, g.figure(g.Bound, unit))
}

// short is the aim in at most 9 characters. Its unit tells what it is of: an x
// stands for the ratio, an r for requests.
func (g *goal) short(unit string) string {
	sign := "<="
	if g.Least {
		sign = ">="
	}
	return sign + g.figure(g.Bound, unit) + map[string]string{"ratio": "x", "requests": "r"}[g.Of]
}

// figure writes a value of what the aim is of.
func (g *goal) figure(v float64, unit string) string {
	switch g.Of {
	case "ours":
		return figure(v, unit)
	case "bytes":
		return megabytes(v)
	case "requests":
		return figure(v, "")
	}
	return digits(v)
}

// figure writes a value in at most 8 characters.
func figure(v float64, unit string) string {
	switch {
	case unit == "":
		return fmt.Sprintf("%.0f", v)
	case unit == "MB/s" && v >= 999.5:
		return digits(v/1e3) + "GB/s"
	case unit == "/s" && v >= 999.5e3:
		return digits(v/1e6) + "M/s"
	case unit == "/s" && v >= 999.5:
		return digits(v/1e3) + "k/s"
	}
	return digits(v) + unit
}

// digits writes three significant ones.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// megabytes are of a million bytes.
func megabytes(v float64) string {
	if v < 1e6 {
		return digits(v/1e3) + "kB"
	}
	return digits(v/1e6) + "MB"
}

// wrap writes text in lines that fit, broken at blanks; a word that is too long
// stays whole. Line breaks in text stay.
func wrap(t *strings.Builder, text, indent string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		used := 0
		for _, word := range strings.Fields(line) {
			if used > 0 && used+1+len(word) > width {
				fmt.Fprintf(t, "\n%s  ", indent)
				used = len(indent) + 2
			} else if used > 0 {
				t.WriteByte(' ')
				used++
			} else {
				t.WriteString(indent)
				used = len(indent)
			}
			t.WriteString(word)
			used += len(word)
		}
		t.WriteByte('\n')
	}
}
