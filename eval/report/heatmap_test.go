package report_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/eval/report"
	"github.com/hashattn/hashattn/eval/result"
)

// needleRows are the scores of a needle under dense attention and one setting.
func needleRows() []result.ScoreRow {
	var rows []result.ScoreRow
	for _, selector := range []string{"dense", "streaming"} {
		budget := ""
		if selector != "dense" {
			budget = "1/8"
		}
		for _, depth := range []float64{0, .5, 1} {
			for i, context := range []int{4096, 1000} {
				rows = append(rows, result.ScoreRow{Benchmark: "niah", Task: result.NIAHTask, Selector: selector, Budget: budget,
					Density: 1, Samples: 1, Context: context, Depth: depth, Score: 100 * depth / float64(1+i), Dense: 100 * depth / float64(1+i)})
			}
		}
		rows = append(rows, result.ScoreRow{Benchmark: "niah", Task: "average", Selector: selector, Budget: budget, Density: 1, Samples: 6})
	}
	return rows
}

func TestHeatMap(t *testing.T) {
	maps, err := report.HeatMaps(needleRows())
	if err != nil {
		t.Fatal(err)
	}
	if len(maps) != 2 || maps[1].Title != "streaming 1/8" || maps[1].FileName() != "heatmap-streaming-1of8" {
		t.Fatalf("heat maps %+v", maps)
	}
	want := "dense: per cent of the needle by depth and context\n" +
		"         1000     4K\n    0%      0      0\n   50%     25     50\n  100%     50    100\n"
	if got := maps[0].Text(); got != want {
		t.Errorf("text\n%s\nwant\n%s", got, want)
	}
	for ext, magic := range map[string]string{"png": "\x89PNG", "svg": "<?xml"} {
		path := filepath.Join(t.TempDir(), "map."+ext)
		if err := maps[0].Save(path); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(raw, []byte(magic)) {
			t.Errorf("%s begins with %.8q (%v)", ext, raw, err)
		}
	}
	if err := maps[0].Save(filepath.Join(t.TempDir(), "map.txt")); err == nil {
		t.Error("a heat map was saved as text")
	}
	if _, err := report.HeatMaps(needleRows()[1:4]); err == nil || !strings.Contains(err.Error(), "no score at") {
		t.Errorf("a map with holes gives %v", err)
	}
}

// The maps of eval niah, which keeps its scores in a folder of their own, are
// in the report of the run.
func TestReportShowsHeatMaps(t *testing.T) {
	run := writeRun(t, "needles", nil)
	if err := os.Mkdir(filepath.Join(run, "niah"), 0o755); err != nil {
		t.Fatal(err)
	}
	h, err := result.NewHeader(result.KindScores, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := result.Write(filepath.Join(run, "niah", "scores.json"), &result.Scores{Header: h, Rows: needleRows()}); err != nil {
		t.Fatal(err)
	}
	if err := load(t, run).Write(run); err != nil {
		t.Fatal(err)
	}
	html, err := os.ReadFile(filepath.Join(run, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{">dense</text>", ">streaming 1/8</text>", "cells: % found", "niah 4K at 50%"} {
		if !strings.Contains(string(html), want) {
			t.Errorf("report.html lacks %q", want)
		}
	}
	md, err := os.ReadFile(filepath.Join(run, "report.md"))
	if err != nil || !strings.Contains(string(md), "(plots/heatmap-streaming-1of8.svg)") {
		t.Errorf("report.md has no heat map (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(run, "plots", "heatmap-dense.svg")); err != nil {
		t.Error(err)
	}
}
