package mapping

import (
	"fmt"

	"github.com/hashattn/hashattn/kernels"
)

// ShareUnit is the parts of a set that has just the mean budget. Budgets whose
// tokens are a multiple of it are divided without rounding.
const ShareUnit = 32

// maxShare bounds a set's parts.
const maxShare = 1024 * ShareUnit

// Shares divides one mean budget among the token sets of all layers.
type Shares struct {
	// Layers are the sets' parts of ShareUnit, nil for a dense layer. Their
	// mean over all sets is ShareUnit.
	Layers [][]int `json:"layers"`
	// Measured says how they were found.
	Measured Measured `json:"measured"`
}

// Measured is what a calibration depended on.
type Measured struct {
	Objective string   `json:"objective"` // "mass" or "error"
	Per       string   `json:"per"`       // what has a share of its own: "set", "kv-head" or "layer"
	Budget    string   `json:"budget"`    // the mean budget measured at
	Context   int      `json:"context"`
	Queries   int      `json:"queries"` // of each document
	Documents []string `json:"documents"`
}

// Budgets are the budgets of a layer's sets under the mean budget b, each
// rounded down; nil for a layer without shares.
func (s *Shares) Budgets(layer int, b kernels.Budget) []kernels.Budget {
	if layer >= len(s.Layers) || s.Layers[layer] == nil {
		return nil
	}
	out := make([]kernels.Budget, len(s.Layers[layer]))
	for i, parts := range s.Layers[layer] {
		if b.Den == 0 {
			out[i] = kernels.Budget{Count: int(int64(b.Count) * int64(parts) / ShareUnit)}
			continue
		}
		num, den := b.Num*parts, b.Den*ShareUnit
		d := divisor(num, den)
		if out[i] = (kernels.Budget{Num: num / d, Den: den / d}); num >= den {
			out[i] = kernels.Budget{Num: 1, Den: 1}
		}
	}
	return out
}

// divisor is the greatest common divisor.
func divisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return max(a, 1)
}

// check reports shares that do not belong to the configuration.
func (s *Shares) check(c Config) error {
	if len(s.Layers) != c.Model.Layers {
		return fmt.Errorf("shares of %d layers, the model has %d", len(s.Layers), c.Model.Layers)
	}
	sum, sets := 0, 0
	for l, parts := range s.Layers {
		want := c.SelectionHeads(l)
		if c.Dense(l) {
			want = 0
		}
		if len(parts) != want {
			return fmt.Errorf("shares of layer %d: %d, want one for each of %d token sets", l, len(parts), want)
		}
		for i, p := range parts {
			if p < 0 || p > maxShare {
				return fmt.Errorf("shares of layer %d: %d at %d, want 0 to %d", l, p, i, maxShare)
			}
			sum += p
		}
		sets += len(parts)
	}
	if sum != sets*ShareUnit {
		return fmt.Errorf("shares of %d token sets sum to %d, want %d: calibrate again", sets, sum, sets*ShareUnit)
	}
	return nil
}
