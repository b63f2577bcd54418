package report

import (
	"bytes"
	"fmt"
	"image/color"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/palette/moreland"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/model/atomicfile"
)

// HeatMap is one setting's scores of needle in a haystack by depth and context.
type HeatMap struct {
	Title    string
	Contexts []int
	Depths   []float64   // 0 to 1
	Scores   [][]float64 // [depth][context], 0 to 100
}

// HeatMaps collects the rows of needle in a haystack, a map per setting in the
// order of the rows.
func HeatMaps(rows []result.ScoreRow) ([]HeatMap, error) {
	var names []string
	cells := map[string]map[[2]float64]float64{}
	maps := map[string]*HeatMap{}
	for _, r := range rows {
		if r.Task != result.NIAHTask {
			continue
		}
		name := r.Selector
		for _, more := range []string{r.Preset, r.Budget} {
			if more != "" {
				name += " " + more
			}
		}
		h := maps[name]
		if h == nil {
			h = &HeatMap{Title: name}
			names, maps[name], cells[name] = append(names, name), h, map[[2]float64]float64{}
		}
		if !slices.Contains(h.Contexts, r.Context) {
			h.Contexts = append(h.Contexts, r.Context)
		}
		if !slices.Contains(h.Depths, r.Depth) {
			h.Depths = append(h.Depths, r.Depth)
		}
		cells[name][[2]float64{r.Depth, float64(r.Context)}] = r.Score
	}
	var out []HeatMap
	for _, name := range names {
		h := maps[name]
		slices.Sort(h.Contexts)
		slices.Sort(h.Depths)
		for _, d := range h.Depths {
			var line []float64
			for _, c := range h.Contexts {
				score, ok := cells[name][[2]float64{d, float64(c)}]
				if !ok {
					return nil, fmt.Errorf("%s: no score at %d tokens, depth %g", name, c, d)
				}
				line = append(line, score)
			}
			h.Scores = append(h.Scores, line)
		}
		out = append(out, *h)
	}
	return out, nil
}

// Text is the map as a table: a line per depth, a column per context.
func (h HeatMap) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: per cent of the needle by depth and context\n%6s", h.Title, "")
	for _, c := range h.Contexts {
		fmt.Fprintf(&b, " %6s", tokens(c))
	}
	b.WriteByte('\n')
	for i, d := range h.Depths {
		fmt.Fprintf(&b, "%5.0f%%", 100*d)
		for _, s := range h.Scores[i] {
			fmt.Fprintf(&b, " %6.0f", s)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// grid shows a HeatMap to the plotter: columns are contexts, rows depths, the
// deepest at the bottom; cells are of equal size.
type grid struct{ HeatMap }

func (g grid) Dims() (c, r int)   { return len(g.Contexts), len(g.Depths) }
func (g grid) Z(c, r int) float64 { return g.Scores[len(g.Depths)-1-r][c] }
func (g grid) X(c int) float64    { return float64(c) }
func (g grid) Y(r int) float64    { return float64(r) }

// numbers writes the scores into the cells.
func (h HeatMap) numbers() (*plotter.Labels, error) {
	var at plotter.XYLabels
	g := grid{h}
	for r := range h.Depths {
		for c := range h.Contexts {
			at.XYs = append(at.XYs, plotter.XY{X: g.X(c), Y: g.Y(r)})
			at.Labels = append(at.Labels, fmt.Sprintf("%.0f", g.Z(c, r)))
		}
	}
	l, err := plotter.NewLabels(at)
	if err != nil {
		return nil, err
	}
	for i := range l.TextStyle {
		l.TextStyle[i].Font.Typeface, l.TextStyle[i].Font.Variant = sans.Typeface, sans.Variant
		l.TextStyle[i].XAlign, l.TextStyle[i].YAlign = text.XCenter, text.YCenter
		l.TextStyle[i].Color = color.Black
		if g.Z(i%len(h.Contexts), i/len(h.Contexts)) < 60 { // a dark cell
			l.TextStyle[i].Color = color.White
		}
	}
	return l, nil
}

// FileName is what the map's files are called, without an extension.
func (h HeatMap) FileName() string {
	return "heatmap-" + strings.NewReplacer(" ", "-", "/", "of", ":", "").Replace(h.Title)
}

// Save draws the map to a file, .png or .svg, whole or not at all.
func (h HeatMap) Save(path string) error {
	format := strings.TrimPrefix(filepath.Ext(path), ".")
	if format != "png" && format != "svg" {
		return fmt.Errorf("%s: a heat map is a .png or .svg file", path)
	}
	image, err := h.draw(format)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Replace(path, image)
}

// SVG draws the map for an HTML page.
func (h HeatMap) SVG() ([]byte, error) {
	image, err := h.draw("svg")
	if err != nil {
		return nil, fmt.Errorf("heat map of %s: %w", h.Title, err)
	}
	return inline(image), nil
}

// draw gives the map as an image.
func (h HeatMap) draw(format string) ([]byte, error) {
	p := plot.New()
	sansSerif(p)
	p.Title.Text = h.Title
	p.X.Label.Text, p.Y.Label.Text = "context; cells: % found", "depth"
	colours := moreland.BlackBody() // from dark to light, also without colour
	const white = 120               // beyond 100, so that a full score is seen on a white page
	colours.SetMin(0)
	colours.SetMax(white)
	m := plotter.NewHeatMap(grid{h}, colours.Palette(64))
	m.Min, m.Max = 0, white
	m.Rasterized = false
	numbers, err := h.numbers()
	if err != nil {
		return nil, err
	}
	p.Add(m, numbers)
	var x, y []plot.Tick
	for i, c := range h.Contexts {
		x = append(x, plot.Tick{Value: float64(i), Label: tokens(c)})
	}
	for i, d := range h.Depths {
		y = append(y, plot.Tick{Value: float64(len(h.Depths) - 1 - i), Label: fmt.Sprintf("%.0f%%", 100*d)})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.ConstantTicks(x), plot.ConstantTicks(y)
	const cell, margin, least = 1.4 * vg.Centimeter, 2.5 * vg.Centimeter, 10 * vg.Centimeter
	width := max(margin+cell*vg.Length(len(h.Contexts)), least)
	w, err := p.WriterTo(width, margin+cell/2*vg.Length(len(h.Depths)), format)
	if err != nil {
		return nil, err
	}
	var image bytes.Buffer
	_, err = w.WriteTo(&image)
	return image.Bytes(), err
}
