package benchmark

import (
	"testing"

	"github.com/hashattn/hashattn/eval/result"
)

// Rows of one sample each have no spread of their own: their average's interval
// is that of the rows.
func TestAverageOfSingleSamples(t *testing.T) {
	var order []Row
	made, means := map[Row]result.ScoreRow{}, map[Row][]float64{}
	for i := range 20 {
		row := Row{Task: "cell", Context: 1024 * (i + 1)}
		difference := float64(100 * (i % 2))
		order = append(order, row)
		made[row] = result.ScoreRow{Samples: 1, Score: difference, Difference: difference}
		means[row] = resampledMeans([]float64{difference}, "cell")
	}
	all := Average{Row: Row{Task: "average"}, Of: func(Row) bool { return true }}
	x, ok := average(result.ScoreRow{}, all, order, made, means)
	if !ok || x.Samples != 20 || x.Difference != 50 || !(x.Low > 20 && x.Low < 40 && x.High > 60 && x.High < 80) {
		t.Errorf("average %+v, want 50 between about 28 and 72", x)
	}
}
