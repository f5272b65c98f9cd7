package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// plot is one panel: lines over two axes that begin at 0.
type plot struct {
	title, x, y string
	lines       []series
}

// series is one line.
type series struct {
	name   string
	dashed bool
	points [][2]float64
}

func (s *series) add(x, y float64) { s.points = append(s.points, [2]float64{x, y}) }

// The size of a panel and of its margins, in pixels.
const (
	panelWidth, panelHeight         = 480, 340
	marginLeft, marginRight         = 56, 120
	marginTop, marginBottom         = 40, 48
	plotWidth                       = panelWidth - marginLeft - marginRight
	plotHeight                      = panelHeight - marginTop - marginBottom
	textColour, gridColour, lineEnd = "#333", "#ddd", 14
)

// colours can be told apart by those who see no red or no green.
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// svg draws the panels side by side.
func svg(panels []plot) string {
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n",
		panelWidth*len(panels), panelHeight)
	s.WriteString(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
	for i, p := range panels {
		fmt.Fprintf(&s, `<g transform="translate(%d 0)">`+"\n", i*panelWidth)
		p.draw(&s)
		s.WriteString("</g>\n")
	}
	s.WriteString("</svg>\n")
	return s.String()
}

func (p plot) draw(s *strings.Builder) {
	var most [2]float64
	for _, l := range p.lines {
		for _, point := range l.points {
			most[0], most[1] = max(most[0], point[0]), max(most[1], point[1])
		}
	}
	xStep, yStep := step(most[0]), step(most[1])
	xEnd, yEnd := max(1, math.Ceil(most[0]/xStep))*xStep, max(1, math.Ceil(most[1]/yStep))*yStep
	across := func(v float64) float64 { return marginLeft + v/xEnd*plotWidth }
	down := func(v float64) float64 { return marginTop + (1-v/yEnd)*plotHeight }

	text(s, marginLeft, 22, "start", p.title, `font-weight="bold"`)
	for n := range int(math.Round(yEnd/yStep)) + 1 {
		v := float64(n) * yStep
		fmt.Fprintf(s, `<path d="M%d %.1fh%d" stroke="%s"/>`+"\n", marginLeft, down(v), plotWidth, gridColour)
		text(s, marginLeft-6, down(v)+4, "end", trim(v), "")
	}
	for n := range int(math.Round(xEnd/xStep)) + 1 {
		v := float64(n) * xStep
		fmt.Fprintf(s, `<path d="M%.1f %dv5" stroke="%s"/>`+"\n", across(v), marginTop+plotHeight, textColour)
		text(s, across(v), marginTop+plotHeight+18, "middle", trim(v), "")
	}
	fmt.Fprintf(s, `<path d="M%d %dv%dh%d" fill="none" stroke="%s"/>`+"\n", marginLeft, marginTop, plotHeight, plotWidth, textColour)
	text(s, marginLeft+plotWidth/2, panelHeight-12, "middle", p.x, "")
	text(s, marginLeft-6, marginTop-8, "end", p.y, "")

	labels := p.labels(down)
	for i, l := range p.lines {
		l.draw(s, colours[i%len(colours)], across, down, labels[i])
	}
}

// draw draws one line, with its name beside its end.
func (l series) draw(s *strings.Builder, colour string, across, down func(float64) float64, label float64) {
	if len(l.points) == 0 {
		return
	}
	dash := ""
	if l.dashed {
		dash = ` stroke-dasharray="5 4"`
	}
	var path strings.Builder
	for i, point := range l.points {
		fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], across(point[0]), down(point[1]))
		fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", across(point[0]), down(point[1]), colour)
	}
	fmt.Fprintf(s, `<path d="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", path.String(), colour, dash)
	text(s, marginLeft+plotWidth+8, label+4, "start", l.name, fmt.Sprintf(`fill="%s"`, colour))
}

// labels are the heights at which the lines' names stand: at their ends, moved
// apart where they would touch.
func (p plot) labels(down func(float64) float64) []float64 {
	at := make([]float64, len(p.lines))
	for i, l := range p.lines {
		if len(l.points) > 0 {
			at[i] = down(l.points[len(l.points)-1][1])
		}
	}
	for range len(at) * len(at) {
		for i := range at {
			for j := range i {
				if gap := math.Abs(at[i] - at[j]); gap < lineEnd {
					upper, lower := &at[i], &at[j]
					if *upper > *lower {
						upper, lower = lower, upper
					}
					*upper -= (lineEnd - gap) / 2
					*lower += (lineEnd - gap) / 2
				}
			}
		}
	}
	return at
}

// step is a round distance between ticks, of which there are 4 to 10 up to most.
func step(most float64) float64 {
	if most <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(most)))
	for _, f := range []float64{0.1, 0.2, 0.5, 1, 2} {
		if most/(power*f) <= 8 {
			return power * f
		}
	}
	return power * 5
}

func trim(v float64) string { return fmt.Sprintf("%.4g", v) }

func text(s *strings.Builder, x, y float64, anchor, content, attributes string) {
	var escaped strings.Builder
	if xml.EscapeText(&escaped, []byte(content)) != nil {
		return // a Builder takes everything
	}
	if !strings.Contains(attributes, "fill=") {
		attributes += fmt.Sprintf(` fill="%s"`, textColour)
	}
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, strings.TrimSpace(attributes), escaped.String())
}
