package report

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// byteTicks marks an axis of bytes at powers of two of its unit.
type byteTicks struct{ unit float64 }

// byteUnit is KiB, or MiB where dense attention reads many.
func byteUnit(dense float64) (float64, string) {
	if dense >= 8<<20 {
		return 1 << 20, "MiB"
	}
	return 1 << 10, "KiB"
}

// powers are those of two, as many apart as leave a handful on the axis.
func powers(lo, hi float64) (out []float64) {
	first, last := math.Ceil(math.Log2(lo)), math.Floor(math.Log2(hi))
	step := max(1, math.Ceil((last-first)/4))
	for e := first; e <= last; e += step {
		out = append(out, math.Exp2(e))
	}
	return out
}

// Ticks implements plot.Ticker.
func (t byteTicks) Ticks(lo, hi float64) []plot.Tick {
	var out []plot.Tick
	for _, v := range powers(lo/t.unit, hi/t.unit) {
		out = append(out, plot.Tick{Value: v * t.unit, Label: strconv.FormatFloat(v, 'g', 4, 64)})
	}
	return out
}

// A panel's size; beside the panels stands one legend for all.
const panelWidth, panelHeight = 7.4 * vg.Centimeter, 6.8 * vg.Centimeter

// denseColour draws what dense attention reads and keeps.
var denseColour = color.RGBA{0x30, 0x30, 0x30, 255}

// gridSVG draws panels side by side. A selector has one colour in all of them.
func gridSVG(rows [][]panel) ([]byte, error) {
	var names, budgets []string
	for _, row := range rows {
		for _, p := range row {
			for _, b := range p.budgets {
				if !slices.Contains(budgets, b) {
					budgets = append(budgets, b)
				}
			}
			for _, l := range p.lines {
				if !slices.Contains(names, l.Name) {
					names = append(names, l.Name)
				}
			}
		}
	}
	plots := make([][]*plot.Plot, len(rows))
	for i, row := range rows {
		for _, p := range row {
			if len(p.lines) == 0 { // not measured in this run
				plots[i] = append(plots[i], nil)
				continue
			}
			pl, err := p.plot(names)
			if err != nil {
				return nil, fmt.Errorf("plot of quality, %s: %w", p.title, err)
			}
			plots[i] = append(plots[i], pl)
		}
	}
	legend := plot.NewLegend()
	legend.TextStyle.Font = sans
	legend.TextStyle.Font.Size = 9
	legend.Top, legend.Left, legend.Padding = true, true, 2
	dense, err := plotter.NewLine(plotter.XYs{{}, {X: 1}})
	if err != nil {
		return nil, err
	}
	styleDense(dense)
	legend.Add("dense", dense)
	legendWidth := legend.TextStyle.Width("dense") + 40
	for i, name := range names {
		line, points, err := styled(plotter.XYs{{}, {X: 1}}, i)
		if err != nil {
			return nil, err
		}
		legend.Add(name, line, points)
		legendWidth = max(legendWidth, 1.1*legend.TextStyle.Width(name)+40)
	}
	slices.SortFunc(budgets, func(a, b string) int { return cmp.Compare(budgetShare(b), budgetShare(a)) })
	for _, text := range []string{"", "points from left to right:", "budgets of " + strings.Join(budgets, ", "), "bars of NLL: standard error,", "of points: 95% interval"} {
		legend.Add(text)
		legendWidth = max(legendWidth, 1.1*legend.TextStyle.Width(text)+40)
	}
	columns := len(rows[0])
	width, height := panelWidth*vg.Length(columns)+legendWidth, panelHeight*vg.Length(len(rows))
	canvas := vgsvg.New(width, height)
	dc := draw.New(canvas)
	tiles := draw.Tiles{Rows: len(rows), Cols: columns, PadX: 10, PadY: 10, PadTop: 2, PadBottom: 2, PadLeft: 2, PadRight: 4}
	areas := plot.Align(plots, tiles, draw.Crop(dc, 0, -legendWidth, 0, 0))
	for i := range plots {
		for j, pl := range plots[i] {
			if pl != nil {
				pl.Draw(areas[i][j])
			}
		}
	}
	legend.Draw(draw.Crop(dc, width-legendWidth+8, 0, 0, -18))
	var buf bytes.Buffer
	if _, err := canvas.WriteTo(&buf); err != nil {
		return nil, err
	}
	return inline(buf.Bytes()), nil
}

// plot draws a panel; names give the selectors' colours.
func (p panel) plot(names []string) (*plot.Plot, error) {
	pl := plot.New()
	sansSerif(pl)
	pl.BackgroundColor = nil
	unit, unitName := byteUnit(p.dense.X)
	pl.Title.Text, pl.X.Label.Text, pl.Y.Label.Text = p.title, unitName+" read per decode step and layer", p.y
	pl.Title.TextStyle.Font.Size, pl.X.Label.TextStyle.Font.Size, pl.Y.Label.TextStyle.Font.Size = 10, 9, 9
	pl.X.Tick.Label.Font.Size, pl.Y.Tick.Label.Font.Size = 9, 9
	pl.X.Scale, pl.X.Tick.Marker = plot.LogScale{}, byteTicks{unit}
	pl.Add(plotter.NewGrid())
	for _, l := range p.lines {
		c := slices.Index(names, l.Name)
		xys := make(plotter.XYs, len(l.Points))
		for i, pt := range l.Points {
			xys[i] = plotter.XY{X: pt.X, Y: pt.Y}
			if pt.Low == pt.High {
				continue
			}
			bar, err := plotter.NewYErrorBars(intervals{l.Points[i : i+1]})
			if err != nil {
				return nil, err
			}
			faint := palette[c%len(palette)]
			faint.R, faint.G, faint.B, faint.A = faint.R/5*2, faint.G/5*2, faint.B/5*2, 102 // premultiplied
			bar.Color, bar.Width, bar.CapWidth = faint, .6, 3
			pl.Add(bar)
		}
		line, points, err := styled(xys, c)
		if err != nil {
			return nil, err
		}
		pl.Add(line, points)
	}
	// Dense: as many bytes as it reads, as good as it is.
	pl.X.Max = max(pl.X.Max, p.dense.X)
	pl.Y.Min, pl.Y.Max = min(pl.Y.Min, p.dense.Y), max(pl.Y.Max, p.dense.Y)
	widen(&pl.X)
	widen(&pl.Y)
	for _, ends := range []plotter.XYs{{{X: p.dense.X, Y: pl.Y.Min}, {X: p.dense.X, Y: pl.Y.Max}}, {{X: pl.X.Min, Y: p.dense.Y}, {X: pl.X.Max, Y: p.dense.Y}}} {
		line, err := plotter.NewLine(ends)
		if err != nil {
			return nil, err
		}
		styleDense(line)
		pl.Add(line)
	}
	return pl, nil
}

func styleDense(l *plotter.Line) {
	l.Color, l.Width, l.Dashes = denseColour, vg.Points(1), []vg.Length{3, 2}
}
