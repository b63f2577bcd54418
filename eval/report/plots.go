package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"sort"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/hashattn/hashattn/eval/result"
)

// Plot is one plot of lines.
type Plot struct {
	Name   string // of its SVG file
	Title  string
	X, Y   string
	LogX   bool
	LogY   bool
	Marks  []Mark // of the X axis; none: as the scale has them
	Lines  []Line
	Points bool // draw no lines between the points
}

// Line is one setting's points, ascending in X.
type Line struct {
	Name   string
	Points []Point
}

// Point is one value; Low and High are its interval where it has one.
type Point struct{ X, Y, Low, High float64 }

// Mark is a tick of an axis. Its label may have several lines.
type Mark struct {
	Value float64
	Label string
}

// budgetAxis is an X axis of budgets: each is marked with its name and the
// share of cached tokens that was read under it, sink and local included.
type budgetAxis struct {
	names       []string
	at          map[string]float64
	least, most map[string]float64
}

// place gives a budget's place: a share's is itself, a count's what was read.
func (a *budgetAxis) place(budget string, density float64) float64 {
	if _, known := a.at[budget]; known {
		a.least[budget], a.most[budget] = min(a.least[budget], density), max(a.most[budget], density)
		return a.at[budget]
	}
	if a.at == nil {
		a.at, a.least, a.most = map[string]float64{}, map[string]float64{}, map[string]float64{}
	}
	place := density
	if share := -budgetShare(budget); share > 0 {
		place = share
	}
	a.names = append(a.names, budget)
	a.at[budget], a.least[budget], a.most[budget] = place, density, density
	return place
}

func (a *budgetAxis) marks() []Mark {
	var out []Mark
	for _, name := range a.names {
		read, most := figures(100*a.least[name]), figures(100*a.most[name])
		if most != read {
			read += " to " + most
		}
		out = append(out, Mark{a.at[name], name + "\n" + read + "%"})
	}
	return out
}

// figures writes a number with two figures, or whole.
func figures(v float64) string {
	if v >= 10 {
		return fixed(v, 0)
	}
	return fixed(v, 1)
}

const budgetLabel = "budget; share of cached tokens read"

// lines collects points by name, in the order of first use.
type lines []Line

func (l *lines) add(name string, p Point) {
	for i := range *l {
		if (*l)[i].Name == name {
			(*l)[i].Points = append((*l)[i].Points, p)
			return
		}
	}
	*l = append(*l, Line{name, []Point{p}})
}

func (l lines) sorted() []Line {
	for _, line := range l {
		sort.SliceStable(line.Points, func(i, j int) bool { return line.Points[i].X < line.Points[j].X })
	}
	return l
}

// longest is the longest context of a kind's rows.
func (r *Report) longestRecall() (at int) {
	r.recall(func(_ *Run, x result.RecallRow) { at = max(at, x.Context) })
	return at
}

func (r *Report) recallPlot() Plot {
	at := r.longestRecall()
	var l lines
	var x budgetAxis
	r.recall(func(run *Run, row result.RecallRow) {
		if row.Layer == nil && row.Context == at {
			l.add(r.label(run, row.Selector, row.Preset), Point{X: x.place(row.Budget, row.Density), Y: row.Recall})
		}
	})
	return Plot{Name: "recall", Title: "Recall by budget at " + tokens(at), X: budgetLabel, Y: "recall of the exact top tokens", LogX: true, Marks: x.marks(), Lines: l.sorted()}
}

// bitsPlot is recall against memory at the middle budget.
func (r *Report) bitsPlot() Plot {
	at := r.longestRecall()
	budgets := r.budgets()
	if len(budgets) == 0 {
		return Plot{}
	}
	budget := budgets[len(budgets)/2]
	var l lines
	r.recall(func(run *Run, x result.RecallRow) {
		if x.Layer == nil && x.Context == at && x.Budget == budget {
			l.add(r.label(run, x.Selector, x.Preset), Point{X: x.BitsPerToken, Y: x.Recall})
		}
	})
	return Plot{Name: "bits", Title: fmt.Sprintf("Recall against memory at %s, budget %s", tokens(at), budget), X: "bits kept per KV-head token", Y: "recall of the exact top tokens", Points: true, Lines: l.sorted()}
}

func (r *Report) perplexityPlot() Plot {
	at := 0
	r.perplexity(func(_ *Run, x result.PerplexityRow) { at = max(at, x.Context) })
	var l lines
	var x budgetAxis
	r.perplexity(func(run *Run, row result.PerplexityRow) {
		if row.Context == at && row.Selector != "dense" {
			l.add(r.label(run, row.Selector, row.Preset), Point{x.place(row.Budget, row.Density), row.Delta, row.Delta - row.StdErr, row.Delta + row.StdErr})
		}
	})
	return Plot{Name: "perplexity", Title: "Change of NLL against dense at " + tokens(at), X: budgetLabel, Y: "nats per token", LogX: true, Marks: x.marks(), Lines: l.sorted()}
}

// averages gives f the average rows of benchmark scores.
func (r *Report) averages(f func(*Run, result.ScoreRow)) {
	r.scores(func(run *Run, x result.ScoreRow) {
		if x.Task == "average" && x.Selector != "dense" {
			f(run, x)
		}
	})
}

func (r *Report) scoreDensityPlot() Plot {
	var l lines
	var x budgetAxis
	r.averages(func(run *Run, row result.ScoreRow) {
		l.add(row.Benchmark+" "+r.label(run, row.Selector, row.Preset), Point{x.place(row.Budget, row.Density), row.Difference, row.Low, row.High})
	})
	return Plot{Name: "scores", Title: "Average score against dense, by budget", X: budgetLabel, Y: "points against dense", LogX: true, Marks: x.marks(), Lines: l.sorted()}
}

func (r *Report) scoreBitsPlot() Plot {
	var l lines
	r.averages(func(run *Run, x result.ScoreRow) {
		l.add(x.Benchmark+" "+r.label(run, x.Selector, x.Preset)+" "+x.Budget, Point{x.BitsPerToken, x.Difference, x.Low, x.High})
	})
	return Plot{Name: "scores-bits", Title: "Average score against memory", X: "bits kept per KV-head token", Y: "points against dense", Points: true, Lines: l.sorted()}
}

func (r *Report) scoreLatencyPlot() Plot {
	var l lines
	r.averages(func(run *Run, x result.ScoreRow) {
		if x.Latency > 0 {
			l.add(x.Benchmark+" "+r.label(run, x.Selector, x.Preset), Point{1000 * x.Latency, x.Difference, x.Low, x.High})
		}
	})
	return Plot{Name: "scores-latency", Title: "Average score against latency", X: "ms per generated token", Y: "points against dense", Points: true, Lines: l.sorted()}
}

func (r *Report) speedupPlot() Plot {
	budgets := r.budgets()
	if len(budgets) == 0 {
		return Plot{}
	}
	var l lines
	r.bench(func(run *Run, x result.BenchRow) {
		if x.Part == "attention" && x.Stage == "" && x.Speedup > 0 && x.Selector != "dense" && !x.Projected && x.Batch == 1 {
			l.add(r.label(run, x.Selector, x.Preset)+" "+x.Budget, Point{X: float64(x.Context), Y: x.Speedup})
		}
	})
	return Plot{Name: "speedup", Title: "Attention step: speedup over dense", X: "cached tokens", Y: "times faster", LogX: true, LogY: true, Lines: l.sorted()}
}

// lossPlot is the mean loss over layers and heads at each step, relative to
// the first, so that presets with different losses share an axis.
func (r *Report) lossPlot() Plot {
	var l lines
	for _, run := range r.Runs {
		sums := map[string]map[int][]float64{}
		var presets []string
		for _, x := range run.Losses {
			if sums[x.Preset] == nil {
				sums[x.Preset] = map[int][]float64{}
				presets = append(presets, x.Preset)
			}
			sums[x.Preset][x.Step] = append(sums[x.Preset][x.Step], x.Loss)
		}
		for _, preset := range presets {
			steps := make([]int, 0, len(sums[preset]))
			for s := range sums[preset] {
				steps = append(steps, s)
			}
			sort.Ints(steps)
			first := mean(sums[preset][steps[0]])
			if len(steps) < 2 || !(first > 0) {
				continue
			}
			for _, s := range steps {
				l.add(r.label(run, preset, ""), Point{X: float64(s), Y: mean(sums[preset][s]) / first})
			}
		}
	}
	return Plot{Name: "loss", Title: "Training loss, mean over layers and heads", X: "step", Y: "share of the first step's loss", Lines: l.sorted()}
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// palette is Okabe and Ito's, which colour-blind readers can tell apart, and
// two of Tol's muted ones.
var palette = []color.RGBA{
	{0x00, 0x72, 0xb2, 255}, {0xd5, 0x5e, 0x00, 255}, {0x00, 0x9e, 0x73, 255}, {0xcc, 0x79, 0xa7, 255},
	{0xe6, 0x9f, 0x00, 255}, {0x56, 0xb4, 0xe9, 255}, {0x80, 0x80, 0x80, 255}, {0x99, 0x4f, 0x00, 255},
	{0x33, 0x22, 0x88, 255}, {0x11, 0x77, 0x33, 255},
}

// strokes and glyphs tell apart what shares a colour.
var (
	strokes = [][]vg.Length{nil, {4, 2}, {1, 2}}
	glyphs  = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}}
)

// styled are a line and its points, by its number.
func styled(xys plotter.XYs, i int) (*plotter.Line, *plotter.Scatter, error) {
	line, points, err := plotter.NewLinePoints(xys)
	if err != nil {
		return nil, nil, err
	}
	line.Color, line.Width = palette[i%len(palette)], vg.Points(1.2)
	points.Color, points.Radius = line.Color, vg.Points(2)
	line.Dashes, points.Shape = strokes[i/len(palette)%3], glyphs[i/len(palette)%3]
	return line, points, nil
}

// svgSize is a plot's size; the legend stands beside the axes.
const svgWidth, svgHeight = 19 * vg.Centimeter, 9 * vg.Centimeter

// SVG draws the plot with a transparent background.
func (p Plot) SVG() ([]byte, error) {
	pl := plot.New()
	sansSerif(pl)
	pl.BackgroundColor = nil // the page shows through
	pl.Title.Text, pl.X.Label.Text, pl.Y.Label.Text = p.Title, p.X, p.Y
	pl.Legend.TextStyle.Font.Size = 9
	positive := func(f func(Point) float64) bool {
		for _, l := range p.Lines {
			for _, pt := range l.Points {
				if !(f(pt) > 0) {
					return false
				}
			}
		}
		return true
	}
	if p.LogX && positive(func(pt Point) float64 { return pt.X }) {
		pl.X.Scale, pl.X.Tick.Marker = plot.LogScale{}, powerTicks{}
	}
	if p.LogY && positive(func(pt Point) float64 { return pt.Y }) {
		pl.Y.Scale, pl.Y.Tick.Marker = plot.LogScale{}, powerTicks{}
	}
	if len(p.Marks) > 0 {
		ticks := make([]plot.Tick, len(p.Marks))
		for i, m := range p.Marks {
			ticks[i] = plot.Tick{Value: m.Value, Label: m.Label}
		}
		pl.X.Tick.Marker = plot.ConstantTicks(ticks)
	}
	pl.Add(plotter.NewGrid())
	legend := plot.NewLegend()
	legend.TextStyle = pl.Legend.TextStyle
	legend.Top, legend.Left, legend.Padding = true, true, 2
	for i, l := range p.Lines {
		c := palette[i%len(palette)]
		xys := make(plotter.XYs, len(l.Points))
		for j, pt := range l.Points {
			xys[j] = plotter.XY{X: pt.X, Y: pt.Y}
			if pt.Low != pt.High {
				bar, err := plotter.NewYErrorBars(intervals{l.Points[j : j+1]})
				if err != nil {
					return nil, fmt.Errorf("plot %s: %s: %w", p.Name, l.Name, err)
				}
				bar.Color = c
				pl.Add(bar)
			}
		}
		line, points, err := styled(xys, i)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %s: %w", p.Name, l.Name, err)
		}
		if p.Points {
			pl.Add(points)
			legend.Add(l.Name, points)
		} else {
			pl.Add(line)
			if len(l.Points) <= 12 {
				pl.Add(points)
			}
			legend.Add(l.Name, line)
		}
	}
	// A flat line has no range to draw an axis over.
	if pl.X.Min == pl.X.Max {
		pl.X.Min, pl.X.Max = pl.X.Min-.5*math.Abs(pl.X.Min), pl.X.Max+.5*math.Abs(pl.X.Max)+1e-9
	}
	if pl.Y.Min == pl.Y.Max {
		pl.Y.Min, pl.Y.Max = pl.Y.Min-.5*math.Abs(pl.Y.Min), pl.Y.Max+.5*math.Abs(pl.Y.Max)+1e-9
	}
	widen(&pl.X)
	widen(&pl.Y)
	canvas := vgsvg.New(svgWidth, svgHeight)
	dc := draw.New(canvas)
	// Beside the axes, the legend gets as much width as its longest name needs.
	longest := slices.MaxFunc(p.Lines, func(a, b Line) int { return len(a.Name) - len(b.Name) })
	legendWidth := 1.15*legend.TextStyle.Width(longest.Name) + 40
	pl.Draw(draw.Crop(dc, 0, -legendWidth, 0, 0))
	legend.Draw(draw.Crop(dc, svgWidth-legendWidth+8, 0, 0, -18))
	var buf bytes.Buffer
	if _, err := canvas.WriteTo(&buf); err != nil {
		return nil, fmt.Errorf("plot %s: %w", p.Name, err)
	}
	return inline(buf.Bytes()), nil
}

// widen gives an axis room for the points at its ends.
func widen(a *plot.Axis) {
	const room = .03
	if _, log := a.Scale.(plot.LogScale); log {
		f := math.Pow(a.Max/a.Min, room)
		a.Min, a.Max = a.Min/f, a.Max*f
		return
	}
	by := room * (a.Max - a.Min)
	a.Min, a.Max = a.Min-by, a.Max+by
}

// sans is the font of all text.
var sans = font.Font{Typeface: "Liberation", Variant: "Sans"}

// sansSerif sets a plot's fonts.
func sansSerif(p *plot.Plot) {
	for _, f := range []*font.Font{&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font} {
		f.Typeface, f.Variant = sans.Typeface, sans.Variant
	}
}

// inline makes an SVG file fit to stand in HTML: without the XML prologue, and
// with fonts that browsers have.
func inline(svg []byte) []byte {
	if i := bytes.Index(svg, []byte("<svg")); i >= 0 {
		svg = svg[i:]
	}
	return bytes.ReplaceAll(svg, []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,sans-serif"))
}

// intervals gives gonum a point's interval.
type intervals struct{ points []Point }

func (v intervals) Len() int                    { return len(v.points) }
func (v intervals) XY(i int) (float64, float64) { return v.points[i].X, v.points[i].Y }
func (v intervals) YError(i int) (float64, float64) {
	return v.points[i].Y - v.points[i].Low, v.points[i].High - v.points[i].Y
}

// powerTicks marks powers of two: shares as 1/32, counts as 4K.
type powerTicks struct{}

// Ticks implements plot.Ticker.
func (powerTicks) Ticks(lo, hi float64) []plot.Tick {
	var out []plot.Tick
	for e := math.Floor(math.Log2(lo)); e <= math.Ceil(math.Log2(hi)); e++ {
		v := math.Exp2(e)
		label := tokens(int(v))
		if v < 1 {
			label = "1/" + strconv.Itoa(int(1/v))
		}
		out = append(out, plot.Tick{Value: v, Label: label})
	}
	return out
}
