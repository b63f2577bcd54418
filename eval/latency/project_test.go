package latency

import (
	"math"
	"strings"
	"testing"

	"github.com/hashattn/hashattn/eval/result"
	"github.com/hashattn/hashattn/kernels"
)

// timedRow is a step of an ideal device: fixed us, and bytes at a share of the
// bandwidth.
func timedRow(selector string, context int, bytes int64, fixed, bandwidth float64) result.BenchRow {
	us := fixed + float64(bytes)/bandwidth*1e6
	return result.BenchRow{Part: "attention", Device: "cuda", Shape: "32q/8kv d128 bf16", Batch: 1, Context: context, Selector: selector, Median: us, Bytes: bytes, Checked: true, Density: 1}
}

func TestProject(t *testing.T) {
	const h100 = 3350e9
	var rows []result.BenchRow
	for _, n := range []int{8 << 10, 32 << 10, 128 << 10} {
		rows = append(rows, timedRow("dense", n, int64(n)*4096, 5, h100*0.8))
		sparse := timedRow("hash", n, int64(n)*256, 9, h100*0.4)
		sparse.Preset, sparse.Budget = "grouped", "1/32"
		stage := sparse
		stage.Stage, stage.Median = "encode", 1
		rows = append(rows, sparse, stage)
	}
	device := kernels.Info{Kind: "cuda", Name: "NVIDIA H100 80GB HBM3"}
	got, notes, err := Project(ProjectOptions{Rows: rows, Device: device, Bandwidth: 3000e9, Targets: []string{"l4", "h100"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 12 || len(notes) != 4 {
		t.Fatalf("%d rows and %d notes, want 12 and 4", len(got), len(notes))
	}
	for _, p := range got {
		fixed, share := 5.0, 0.8
		if p.Selector == "hash" {
			fixed, share = 9, 0.4
		}
		want := fixed + float64(p.Bytes)/(share*gpus[p.Device].bandwidth)*1e6
		if !(math.Abs(p.Median-want) <= 1e-6*want) || !p.Projected || p.Checked || !strings.HasPrefix(p.Note, "projected: t = a + bytes / (e B)") {
			t.Errorf("%+v, want %v us", p, want)
		}
		if !strings.Contains(p.Note, "(data sheet), fitted on NVIDIA H100 80GB HBM3 over 3 sizes, error there mean 0.0%, largest 0.0%") {
			t.Errorf("note %q", p.Note)
		}
		if p.Selector == "hash" && !(p.Speedup > 1) {
			t.Errorf("no speedup: %+v", p)
		}
	}
	file := result.Bench{Rows: got}
	if err := file.Check(); err != nil {
		t.Error(err)
	}

	unknown := device
	unknown.Name = "another"
	if got, _, err = Project(ProjectOptions{Rows: rows, Device: unknown, Bandwidth: h100, Targets: []string{"l4"}}); err != nil || !strings.Contains(got[0].Note, "(measured)") {
		t.Errorf("a device without a data sheet: %v", err)
	}
	noisy := append([]result.BenchRow{}, rows...)
	noisy[3].Median *= 1.5
	if _, notes, err = Project(ProjectOptions{Rows: noisy, Device: device, Targets: []string{"l4"}}); err != nil || strings.Contains(notes[0], "largest 0.0%") {
		t.Errorf("noise does not show in %v: %v", notes, err)
	}
	flat := timedRow("dense", 1, 1, 0, 1)
	flat.Median = 7
	big, bigger := flat, flat
	big.Bytes, bigger.Bytes, bigger.Median = 1000, 2000, 6
	host := device
	host.Kind = "cpu"
	for want, o := range map[string]ProjectOptions{
		"not a graphics card's": {Rows: rows, Device: host, Bandwidth: 1, Targets: []string{"l4"}},
		`card "l5" is unknown`:  {Rows: rows, Device: device, Targets: []string{"l5"}},
		"no measured bandwidth": {Rows: rows, Device: unknown, Targets: []string{"l4"}},
		"2 sizes were timed":    {Rows: rows[:4], Device: device, Targets: []string{"l4"}},
		"do not grow with":      {Rows: []result.BenchRow{flat, big, bigger}, Device: device, Targets: []string{"l4"}},
	} {
		if _, _, err := Project(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
