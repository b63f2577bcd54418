package kernels

import "testing"

func TestStepRead(t *testing.T) {
	// 2 KV heads of 64: a row is 128 bytes
	read := StepRead{KVHeads: 2, HeadDim: 64, Bits: 32, Cached: 4096}
	if got := read.Dense(); got != 2*4096*2*128 {
		t.Errorf("dense reads %v", got)
	}
	sixteenth := Budget{Num: 1, Den: 16} // 256 tokens
	const codes, ends = 2 * 4096 * 4, 2 * 256 * 2 * 128
	oracle := read
	oracle.Keys = true
	if got := oracle.Sparse(Selection{Heads: 6, Sink: 128, Local: 128, Budget: sixteenth, Candidates: 2}, nil); got != read.Dense()/2+ends/2+6*256*128 {
		t.Errorf("a scan of the keys themselves reads %v", got)
	}
	for _, c := range []struct {
		name   string
		s      Selection
		chosen []float64
		want   float64
	}{
		{"a set for each KV head", Selection{Heads: 2, Sink: 128, Local: 128, Budget: sixteenth}, nil, codes + ends + 2*256*256},
		{"and keys of other candidates", Selection{Heads: 2, Sink: 128, Local: 128, Budget: sixteenth, Candidates: 2}, nil, codes + ends + 2*(256*256+256*128)},
		{"a set for each of 6 query heads", Selection{Heads: 6, Sink: 128, Local: 128, Budget: sixteenth}, nil, codes + ends + 6*256*256},
		{"no more than everything", Selection{Heads: 6, Sink: 128, Local: 128, Budget: Budget{Num: 1, Den: 2}}, nil, codes + read.Dense()},
		{"sets of their own sizes", Selection{Heads: 2, Sink: 128, Local: 128, Budgets: []Budget{{Count: 10}, {Count: 30}}}, nil, codes + ends + 40*256},
		{"sets cut at a mass", Selection{Heads: 2, Sink: 128, Local: 128, Budget: sixteenth, Mass: .9, Candidates: 2}, []float64{10, 200}, codes + ends + 210*256 + 210*128},
		{"nothing to choose from", Selection{Heads: 6, Sink: 4096, Local: 128, Budget: sixteenth}, nil, codes + read.Dense()},
	} {
		if got := read.Sparse(c.s, c.chosen); got != c.want {
			t.Errorf("%s: %v bytes, want %v", c.name, got, c.want)
		}
	}
}
