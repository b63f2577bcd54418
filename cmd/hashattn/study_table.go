package main

import (
	"bytes"
	"fmt"
	"math"
	"strings"
)

// markdown is the study as EXPERIMENTS.md.
func (f *studyFile) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s: variants of training\n\n", f.Model)
	if f.About != "" {
		fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace(f.About))
	}
	documents := map[string]int{}
	for _, r := range f.Rows {
		documents["choice"], documents["heldout"] = len(r.Choice), len(r.Heldout)
	}
	fmt.Fprintf(&b, `Made by `+"`%s`"+`. Context %d, budget %s, layers %v, %d choice
and %d held-out documents, device %s. A variant is chosen if its output
error on the choice documents is below that of the variant it stands against; it
is kept if that holds on the held-out documents too, by more than twice the
standard error of the difference over documents. r/m/e: recall of the exact top
32, attention mass read, relative output error. Seconds: training, with as many
workers as stand behind them (0: one a core); - where it is not known.

| variant | bits | steps | seconds | choice r/m/e | held-out r/m/e | held-out difference of error | verdict |
|---|---|---|---|---|---|---|---|
`, f.Command, f.Context, f.Budget, f.Layers, documents["choice"], documents["heldout"], f.Device)
	rows := map[string]*studyRow{}
	for _, r := range f.Rows {
		rows[r.Name] = r
		seconds, steps := "-", "-"
		if r.Seconds > 0 {
			seconds = fmt.Sprintf("%.0f (%d)", r.Seconds, r.Workers)
		}
		if r.trained() {
			steps = fmt.Sprint(r.Steps)
		}
		difference, verdict := "", ""
		if base := rows[r.Against]; base != nil {
			mean, deviation := paired(base.Heldout, r.Heldout)
			difference = fmt.Sprintf("%+.4f", mean)
			if len(r.Heldout) > 1 {
				difference += fmt.Sprintf(" ± %.4f", deviation)
			}
			verdict = judge(base, r)
		}
		fmt.Fprintf(&b, "| %s | %g | %s | %s | %s | %s | %s | %s |\n", strings.ReplaceAll(r.Name, "|", "\\|"), r.Bits, steps, seconds, scores(r.Choice), scores(r.Heldout), difference, verdict)
	}
	return b.Bytes()
}

// trained says whether a row's maps are learned.
func (r *studyRow) trained() bool { return r.Preset != "" }

// judge says what became of a variant that stands against another.
func judge(base, r *studyRow) string {
	if mean, _ := paired(base.Choice, r.Choice); !(mean < 0) {
		return "not chosen"
	}
	mean, deviation := paired(base.Heldout, r.Heldout)
	switch {
	case mean < -2*deviation:
		return "chosen, kept"
	case mean < 0:
		return "chosen, within noise"
	}
	return "chosen, lost"
}

// paired is the mean difference of output error over documents, and its
// standard error.
func paired(base, r []studyScore) (mean, deviation float64) {
	n := float64(min(len(base), len(r)))
	if n == 0 {
		return 0, 0
	}
	for i := range int(n) {
		mean += (r[i].Error - base[i].Error) / n
	}
	if n < 2 {
		return mean, math.Inf(1)
	}
	for i := range int(n) {
		d := r[i].Error - base[i].Error - mean
		deviation += d * d
	}
	return mean, math.Sqrt(deviation / (n - 1) / n)
}

// scores is the mean over documents.
func scores(all []studyScore) string {
	var recall, mass, err float64
	n := float64(len(all))
	for _, s := range all {
		recall, mass, err = recall+s.Recall/n, mass+s.Mass/n, err+s.Error/n
	}
	return fmt.Sprintf("%.3f/%.3f/%.3f", recall, mass, err)
}
