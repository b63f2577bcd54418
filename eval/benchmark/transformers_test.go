package benchmark

import (
	"testing"

	"github.com/hashattn/hashattn/kernels/cpu"
	"github.com/hashattn/hashattn/kernels/dtype"
	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model"
)

// The dense path answers as transformers does, from the prompt's tokens on.
// testdata/transformers is made by
//
//	scripts/longbench_transformers.py --model model/testdata/tiny/qwen3 --data longbench/samples \
//	  --prompts LongBench/config --tasks hotpotqa,trec,samsum,lcc,passage_retrieval_zh --max-length 100 --out eval/benchmark/testdata/transformers
func TestDenseAnswersEqualTransformers(t *testing.T) {
	d, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	m, err := model.Load(t.Context(), "../../model/testdata/tiny/qwen3", d, model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := LongBench(LongBenchOptions{Data: longbench.Embedded(), Tasks: []string{"hotpotqa", "trec", "samsum", "lcc", "passage_retrieval_zh"}})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Model: m, QuestionSparse: SparseTail, PrefillOffset: 16, MaxLength: 100, CacheType: dtype.F32, Chunk: 64, Dir: t.TempDir(), Memory: 1 << 30}
	mustRun(t, b, o)
	tasks, err := Compare(o.Dir+"/dense", "testdata/transformers")
	if err != nil {
		t.Fatal(err)
	}
	samples := 0
	for _, c := range tasks {
		samples += c.Samples
		if c.Here+c.There > 0 {
			t.Errorf("%s: %d samples only here, %d only there", c.Task, c.Here, c.There)
		}
		for _, d := range c.Differences {
			t.Errorf("%s %s: %+v", c.Task, d.Sample, d)
		}
	}
	if samples != len(b.Questions) || len(tasks) != 5 {
		t.Errorf("%d samples of %d tasks were compared, want %d of 5", samples, len(tasks), len(b.Questions))
	}
}
