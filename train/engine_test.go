package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hashattn/hashattn/kernels/dtype"
)

// gpu is a GPU's engine; the test is skipped where there is none.
func gpu(t testing.TB) engine[float32] {
	t.Helper()
	on, done, err := openGPU()
	if err != nil {
		t.Skipf("no GPU to compare with: %v", err)
	}
	t.Cleanup(done)
	return on
}

// far is the host as an engine with a memory of its own, which takes all heads
// at once: what a graph does for a GPU, without one.
type far struct{ *host[float32] }

func (far) Wide() bool { return true }

// operation makes something of inputs, the first of which it also writes.
type operation struct {
	in  [][]float32
	run func(e engine[float32], x [][]float32) error
}

// Every operation of a GPU gives what the host's gives.
func TestGPUOperations(t *testing.T) {
	l := gpu(t)
	rng := rand.New(rand.NewPCG(1, 2))
	normal := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(2 * rng.NormFloat64())
		}
		return x
	}
	var halves []uint16
	for _, v := range normal(70 * 24) {
		halves = append(halves, dtype.BF16FromF32(v))
	}
	shares := func(rows, n int) []float32 {
		x := normal(rows * n)
		for r := range rows {
			for i := range x[r*n : (r+1)*n] {
				x[r*n+i] *= x[r*n+i]
			}
			normalise(x[r*n : (r+1)*n])
		}
		return x
	}
	marks := make([]float32, 6*90)
	for i := range marks {
		marks[i] = float32(rng.IntN(2))
	}
	clear(marks[:90])
	cases := map[string]operation{
		"rows": {[][]float32{normal(20 * 30), normal(3 * 24), normal(3 * 24)}, func(e engine[float32], x [][]float32) error {
			held, err := e.Hold(halves)
			if err == nil {
				e.Rows(x[0], 30, held, 24, []int32{69, 0, 5, 5, 7, 8, 9, 10, 11, 12, 13, 14, 30, 31, 32, 33, 34, 35, 36, 37}, x[1], x[2], 3)
			}
			return err
		}},
		"repeat":    {[][]float32{normal(77 * 33), normal(33)}, func(e engine[float32], x [][]float32) error { e.Repeat(x[0], x[1]); return nil }},
		"sums":      {[][]float32{normal(70), normal(1003 * 70)}, func(e engine[float32], x [][]float32) error { e.Sums(x[0], x[1], false); return nil }},
		"more sums": {[][]float32{normal(5), normal(3 * 5)}, func(e engine[float32], x [][]float32) error { e.Sums(x[0], x[1], true); return nil }},
		"multiply":  {[][]float32{normal(999), normal(999), normal(999)}, func(e engine[float32], x [][]float32) error { e.Multiply(x[0], x[1], x[2]); return nil }},
		"add":       {[][]float32{normal(999), normal(999), normal(999)}, func(e engine[float32], x [][]float32) error { e.Add(x[0], x[1], x[2]); return nil }},
		"scale":     {[][]float32{normal(999), normal(999)}, func(e engine[float32], x [][]float32) error { e.Scale(x[0], x[1], -1.5); return nil }},
		"round 4":   {[][]float32{normal(40 * 9), append(normal(39*9), make([]float32, 9)...)}, func(e engine[float32], x [][]float32) error { e.Round(x[0], x[1], 9, 4); return nil }},
		"round 8":   {[][]float32{normal(40 * 64), normal(40 * 64)}, func(e engine[float32], x [][]float32) error { e.Round(x[0], x[1], 64, 8); return nil }},
		"top":       {[][]float32{normal(6 * 100), normal(6 * 90)}, func(e engine[float32], x [][]float32) error { e.Top(x[0], 100, x[1], 90, 7); return nil }},
		"targets": {[][]float32{normal(8 * 100), normal(8 * 90)}, func(e engine[float32], x [][]float32) error {
			e.Targets(x[0], 100, x[1], nil, 4, 2, true, 0, 1, true, true)
			return nil
		}},
	}
	for f, name := range []string{"silu", "tanh", "sign"} {
		for which := range 2 {
			cases[fmt.Sprint(name, which)] = operation{[][]float32{normal(500), normal(500), append(normal(498), 90, -90)}, func(e engine[float32], x [][]float32) error {
				y := [][]float32{x[0], x[1]}
				e.Function(f, y[which], y[1-which], x[2])
				return nil
			}}
		}
	}
	for name, s := range map[string][2]int{"feedback": {32, 4}, "feedback of 1": {7, 1}, "feedback of 12": {96, 12}} {
		in := [][]float32{normal(200 * s[0]), normal(s[0] * s[0])}
		cases[name] = operation{in, func(e engine[float32], x [][]float32) error { e.Feedback(x[0], x[1], s[0], s[1]); return nil }}
		cases[name+" gradient"] = operation{[][]float32{normal(s[0] * s[0]), normal(200 * s[0]), normal(200 * s[0])}, func(e engine[float32], x [][]float32) error {
			e.FeedbackGradient(x[0], x[1], x[2], s[0], s[1])
			return nil
		}}
	}
	for _, power := range []float64{1, 0.5} {
		for _, edge := range []int{0, 16} {
			cases[fmt.Sprint("group targets ", power, edge)] = operation{[][]float32{normal(4 * 100), normal(3 * 4 * 90), normal(3 * 4 * max(edge, 1))}, func(e engine[float32], x [][]float32) error {
				e.Targets(x[0], 100, x[1], x[2][:3*4*edge], 4, 3, false, 0.7, power, true, true)
				return nil
			}}
		}
	}
	for positive, target := range map[float64][]float32{0: shares(6, 90), 7: marks} {
		wide := make([]float32, 6*100)
		for r := range 6 {
			copy(wide[r*100:], target[r*90:(r+1)*90])
		}
		cases[fmt.Sprint("loss ", positive)] = operation{[][]float32{normal(6 * 90), wide, normal(2)}, func(e engine[float32], x [][]float32) error {
			e.Loss(positive, x[0], x[1], 90, 100)
			e.Loss(positive, x[0][:3*90], x[1][:3*100], 90, 100) // sums go on
			total, err := e.Total()
			if err != nil || math.IsNaN(total) {
				return fmt.Errorf("total %v, %v", total, err)
			}
			e.Put(x[0][:1], []float32{float32(total)})
			again, err := e.Total()
			if again != 0 {
				return fmt.Errorf("total after a total is %v", again)
			}
			return err
		}}
	}
	for i := range 8 {
		ta, tb, beta := i&1 > 0, i&2 > 0, float32(i>>2)
		cases[fmt.Sprint("gemm ", ta, tb, beta)] = operation{[][]float32{normal(37 * 50), normal(37 * 200), normal(200 * 50)}, func(e engine[float32], x [][]float32) error {
			e.Gemm(ta, tb, 37, 50, 200, 0.5, x[1], x[2], beta, x[0])
			return nil
		}}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			run := func(e engine[float32]) []float32 {
				t.Helper()
				defer e.Release()
				var x [][]float32
				for _, in := range c.in {
					y, err := e.Make(len(in))
					if err != nil {
						t.Fatal(err)
					}
					e.Put(y, in)
					x = append(x, y)
				}
				if err := c.run(e, x); err != nil {
					t.Fatal(err)
				}
				out := make([]float32, len(c.in[0]))
				if err := e.Get(out, x[0]); err != nil {
					t.Fatal(err)
				}
				return out
			}
			want, got := run(&host[float32]{}), run(l)
			for i := range want {
				if diff := math.Abs(float64(want[i] - got[i])); !(diff <= 2e-5*(1+math.Abs(float64(want[i])))*4) {
					t.Fatalf("[%d] is %v, on the host %v", i, got[i], want[i])
				}
			}
			if again := run(l); !slices.Equal(got, again) {
				t.Error("two runs differ")
			}
		})
	}
}

// A graph learns on other engines what it learns on the host, but for rounding.
func TestEngines(t *testing.T) {
	r := synthetic(t, 3, true, nil)
	for _, preset := range []string{"shared", "grouped", "mass", "paper"} {
		for name, open := range map[string]func(*testing.T) engine[float32]{
			"far":  func(*testing.T) engine[float32] { return far{&host[float32]{}} },
			"cuda": func(t *testing.T) engine[float32] { return gpu(t) },
		} {
			t.Run(preset+" "+name, func(t *testing.T) {
				e := open(t)
				recipe := preset
				if preset == "mass" {
					recipe = "grouped"
				}
				c := small(t, recipe, 12)
				if preset == "mass" {
					c.GroupRule = "mass"
				}
				if recipe != "paper" {
					c.KeyHidden, c.QueryAware = 16, preset == "shared"
				}
				blocks, err := blocksOf(r, c)
				if err != nil {
					t.Fatal(err)
				}
				losses := func(on engine[float32]) (all []float64) {
					t.Helper()
					g, err := newGraph(unitsOf(r, c, []int{2}, blocks)[1], on)
					if err != nil {
						t.Fatal(err)
					}
					defer g.close()
					for step := range c.Steps {
						loss, err := g.step(step)
						if err != nil {
							t.Fatal(err)
						}
						all = append(all, loss)
					}
					return all
				}
				want, got := losses(&host[float32]{}), losses(e)
				for i := range want {
					if diff := math.Abs(got[i] - want[i]); !(diff <= 2e-3*want[i]) || i == 0 && !(diff <= 1e-5*want[i]) {
						t.Fatalf("losses %v, on the host %v", got, want)
					}
				}
				if want[0] == want[len(want)-1] {
					t.Errorf("nothing was learnt: %v", want)
				}
				if again := losses(e); !slices.Equal(got, again) {
					t.Errorf("losses %v, then %v", got, again)
				}
			})
		}
	}
}
