// Package configs is the experiment file: one YAML file that drives every
// stage, its Go types with their defaults, and the files that ship with the
// program.
//
// Load merges a file, then HASHATTN_* variables, then flags and --set, and
// decodes the result strictly: an unknown key, a wrong type or a value out of
// range is an error that carries the key's path. The same types give the JSON
// schema (Schema) and the commented YAML of an experiment (YAML).
package configs

import (
	"fmt"

	"github.com/hashattn/hashattn/model"
)

// Experiment is one experiment. The tags are the whole truth about a key: its
// name, what it means, and the values it may have.
type Experiment struct {
	Name       string     `json:"name" jsonschema_description:"Name of the run; its files lie in OUTPUT.DIR/NAME."`
	Model      string     `json:"model" jsonschema_description:"Alias (see hashattn pull --help), GGUF file, or Hugging Face folder."`
	Device     Device     `json:"device" jsonschema_description:"Where the model runs."`
	Data       Data       `json:"data" jsonschema_description:"Texts."`
	Capture    Capture    `json:"capture" jsonschema_description:"Queries and keys taken from the model."`
	Train      Train      `json:"train" jsonschema_description:"Training of the hash mappings."`
	Selectors  []Selector `json:"selectors" jsonschema_description:"What chooses the tokens that attention reads: a name, or a name with options such as hash:preset=shared,rerank=2 or quest:page=16. hash stands for every trained mapping. p=0.9 (hash, oracle, pq) cuts a token set where its scores estimate that it holds that share of attention, the budget being its most; hash:budgets=uniform leaves out the shares of a calibrated mapping."`
	Sparsities []Budget   `json:"sparsities" jsonschema_description:"Budgets of chosen tokens: shares of the cached tokens (1/32) or counts (512)."`
	Eval       Eval       `json:"eval" jsonschema_description:"Measurements of quality."`
	Bench      Bench      `json:"bench" jsonschema_description:"Measurements of latency."`
	LongBench  LongBench  `json:"longbench" jsonschema_description:"LongBench scores; run by hashattn run if tasks are given."`
	Output     Output     `json:"output" jsonschema_description:"Where files go."`
}

// Device is where the model runs.
type Device struct {
	Kind      string `json:"kind" jsonschema:"enum=auto,enum=cpu,enum=cuda,enum=reference" jsonschema_description:"auto takes a GPU if the program was built with -tags gpu and finds one."`
	Threads   int    `json:"threads" jsonschema:"minimum=0,maximum=4096" jsonschema_description:"CPU threads; 0: one a core."`
	Cache     string `json:"cache" jsonschema:"enum=bf16,enum=f32" jsonschema_description:"Number format of cached keys and values."`
	Precision string `json:"precision" jsonschema:"enum=fast,enum=f32" jsonschema_description:"fast: weights and products in bf16 on a GPU; f32: as on a CPU, many times slower."`
	Chunk     Tokens `json:"chunk" jsonschema:"minimum=0,maximum=1048576" jsonschema_description:"Tokens of one prefill pass: bounds memory; 0: what suits the device."`
}

// Numbers names the number formats that results depend on.
func (d Device) Numbers() string {
	if d.Precision == "f32" {
		return d.Cache + ", products f32"
	}
	return d.Cache
}

// Data is the texts: each item is calibration, choice or heldout (the embedded sets;
// calibration/code takes part of one), a text file, a folder, or a glob.
type Data struct {
	Calibration []string `json:"calibration" jsonschema_description:"Texts to train on: embedded sets (calibration, calibration/code), files, folders or globs."`
	Choice      []string `json:"choice" jsonschema_description:"Texts that hashattn train --study chooses between variants with."`
	Heldout     []string `json:"heldout" jsonschema_description:"Texts to measure on; none may be a calibration text."`
}

// Capture is what is taken from the model.
type Capture struct {
	Context   Tokens `json:"context" jsonschema:"minimum=16,maximum=1048576" jsonschema_description:"Tokens of each document."`
	Documents int    `json:"documents" jsonschema:"minimum=0,maximum=100000" jsonschema_description:"Calibration documents; 0: all."`
	Heldout   int    `json:"heldout" jsonschema:"minimum=0,maximum=100000" jsonschema_description:"Held-out documents; 0: all."`
	Layers    Layers `json:"layers" jsonschema:"minimum=0,maximum=1023" jsonschema_description:"Layers; empty: all."`
}

// Train is how mappings are trained.
type Train struct {
	Presets       []string    `json:"presets" jsonschema:"enum=paper,enum=shared,enum=grouped" jsonschema_description:"Mappings to train."`
	Steps         int         `json:"steps" jsonschema:"minimum=0,maximum=1000000" jsonschema_description:"Training steps of shared and grouped; 0: the fitted start, untrained."`
	PaperSteps    int         `json:"paperSteps" jsonschema:"minimum=0,maximum=1000000" jsonschema_description:"Training steps of paper, which still gains at 6400; 0: its random start."`
	PaperKeys     int         `json:"paperKeys" jsonschema:"minimum=16,maximum=1048576" jsonschema_description:"Keys of each document in one step of paper: its MLPs make each key dear, and more steps help it more than more keys."`
	PaperDocs     int         `json:"paperDocuments" jsonschema:"minimum=1,maximum=1024" jsonschema_description:"Documents of one step of paper."`
	PaperDecay    bool        `json:"paperDecay" jsonschema_description:"Let paper's learning rate fall as that of shared and grouped does; the paper's own is constant."`
	Bits          int         `json:"bits" jsonschema:"minimum=4,maximum=256" jsonschema_description:"Bits of one key code, a multiple of 4."`
	QueryBits     int         `json:"queryBits" jsonschema:"enum=4,enum=8" jsonschema_description:"Bits of one query weight in shared and grouped."`
	BlockBits     int         `json:"blockBits" jsonschema:"minimum=0,maximum=256" jsonschema_description:"Bits of a block of the residual code of shared and grouped, a divisor of bits; 0: a plain linear code."`
	KeyHidden     int         `json:"keyHidden" jsonschema:"minimum=0,maximum=4096" jsonschema_description:"Width of an MLP beside the linear key map of shared and grouped; 0: none."`
	QueryAware    bool        `json:"queryAware" jsonschema_description:"Train shared and grouped with query weights rounded to queryBits."`
	GroupRule     string      `json:"groupRule" jsonschema:"enum=sum,enum=mass" jsonschema_description:"How the heads of grouped agree on a set: sum trains one query map for all of them, mass one each, whose softmaxes are added (a second pass over the codes)."`
	MassPower     float64     `json:"massPower" jsonschema_description:"Power of a head's attention mass in the target of grouped's joint query map: 1 as attention's output, 0 all heads alike."`
	Candidates    int         `json:"candidates" jsonschema:"minimum=0,maximum=16" jsonschema_description:"Candidates that grouped reranks by exact logits, in budgets; below 2: none."`
	LearningRate  float64     `json:"learningRate" jsonschema_description:"0: the preset's own."`
	Documents     int         `json:"documents" jsonschema:"minimum=1,maximum=1024" jsonschema_description:"Documents of one step."`
	Queries       int         `json:"queries" jsonschema:"minimum=1,maximum=128" jsonschema_description:"Queries of each document in one step."`
	Keys          int         `json:"keys" jsonschema:"minimum=16,maximum=1048576" jsonschema_description:"Keys of each document in one step, drawn at random if it has more."`
	Sink          int         `json:"sink" jsonschema:"minimum=0,maximum=1048576" jsonschema_description:"First tokens that are always read."`
	Local         int         `json:"local" jsonschema:"minimum=1,maximum=1048576" jsonschema_description:"Last tokens that are always read."`
	Seed          uint64      `json:"seed" jsonschema_description:"Seed of everything random in training."`
	Workers       int         `json:"workers" jsonschema:"minimum=0,maximum=4096" jsonschema_description:"Layers and heads trained at once; 0: one a core, on a GPU 8. Does not change the result."`
	DenseLayers   Layers      `json:"denseLayers" jsonschema:"minimum=0,maximum=1023" jsonschema_description:"Layers that stay dense: numbers, spans such as 0-3, or first 4."`
	PerHeadLayers Layers      `json:"perHeadLayers" jsonschema:"minimum=0,maximum=1023" jsonschema_description:"grouped: layers that select per query head."`
	Calibrate     bool        `json:"calibrate" jsonschema_description:"Divide the budget among layers and heads by what the calibration trace says of the trained mapping."`
	Calibration   Calibration `json:"calibration" jsonschema_description:"How train.calibrate divides the budget."`
}

// Calibration is how one mean budget is divided among a mapping's token sets.
type Calibration struct {
	Budget    Budget  `json:"budget" jsonschema_description:"Mean budget at which the shares are measured."`
	Objective string  `json:"objective" jsonschema:"enum=mass,enum=error" jsonschema_description:"What the shares favour: attention mass read, or small error of attention's output."`
	Per       string  `json:"per" jsonschema:"enum=set,enum=kv-head,enum=layer" jsonschema_description:"What has a share of its own: each token set, the sets of a KV head, or those of a layer (the only one that CUDA reads)."`
	Least     float64 `json:"least" jsonschema_description:"Smallest share, in mean budgets."`
	Most      float64 `json:"most" jsonschema_description:"Largest share, in mean budgets."`
	Positions int     `json:"positions" jsonschema:"minimum=1,maximum=1048576" jsonschema_description:"Queries of each document that are measured."`
}

// Eval is the measurements of quality.
type Eval struct {
	Recall     Recall     `json:"recall" jsonschema_description:"Recall of the exact top tokens, from traces."`
	Perplexity Perplexity `json:"perplexity" jsonschema_description:"Change of the likelihood of held-out text."`
	NIAH       NIAH       `json:"niah" jsonschema_description:"Needle in a haystack."`
	Ruler      Ruler      `json:"ruler" jsonschema_description:"RULER's synthetic tasks."`
}

// Recall is eval recall.
type Recall struct {
	Contexts []Tokens `json:"contexts" jsonschema:"minimum=16,maximum=1048576" jsonschema_description:"Cached tokens; empty: the captured context."`
	Queries  int      `json:"queries" jsonschema:"minimum=1,maximum=1048576" jsonschema_description:"Query positions of each document, the last ones captured."`
	Layers   Layers   `json:"layers" jsonschema:"minimum=0,maximum=1023" jsonschema_description:"Layers measured, of those captured; empty: all of them."`
	PerHead  bool     `json:"perHead" jsonschema_description:"Rows for every layer and head beside the means."`
}

// Perplexity is eval perplexity.
type Perplexity struct {
	Contexts  []Tokens `json:"contexts" jsonschema:"minimum=16,maximum=1048576" jsonschema_description:"Tokens of each document, the measured ones the last; empty: the captured context."`
	Tokens    int      `json:"tokens" jsonschema:"minimum=1,maximum=1048576" jsonschema_description:"Last tokens of each context, predicted under sparse attention after a dense prefill of the rest."`
	Documents int      `json:"documents" jsonschema:"minimum=0,maximum=100000" jsonschema_description:"Held-out documents; 0: all."`
}

// NIAH is eval niah.
type NIAH struct {
	Contexts []Tokens `json:"contexts" jsonschema:"minimum=16,maximum=1048576" jsonschema_description:"Lengths of the haystack."`
	Depths   int      `json:"depths" jsonschema:"minimum=1,maximum=101" jsonschema_description:"Depths of the needle, spread from 0 to 1."`
	Haystack string   `json:"haystack" jsonschema_description:"Folder of essays, or an embedded set."`
}

// Ruler is eval ruler.
type Ruler struct {
	Tasks    []string `json:"tasks" jsonschema_description:"Tasks, e.g. niah_single_1; empty: all that need no files."`
	Context  Tokens   `json:"context" jsonschema:"minimum=16,maximum=1048576" jsonschema_description:"Length in the model's tokens."`
	Samples  int      `json:"samples" jsonschema:"minimum=1,maximum=100000" jsonschema_description:"Samples of each task."`
	Seed     uint64   `json:"seed" jsonschema_description:"Same seed, same samples."`
	File     string   `json:"file" jsonschema_description:"A prepared file (jsonl with input and outputs) of the one task in tasks, in place of generated samples."`
	SQuAD    string   `json:"squad" jsonschema_description:"SQuAD's file, for qa_1."`
	HotpotQA string   `json:"hotpotQA" jsonschema_description:"HotpotQA's file, for qa_2."`
	Haystack string   `json:"haystack" jsonschema_description:"Folder of essays, or embedded set, of the tasks that hide something in them."`
}

// Bench is the measurements of latency.
type Bench struct {
	Parts      []string `json:"parts" jsonschema:"enum=attention,enum=decode,enum=prefill" jsonschema_description:"What to time."`
	Contexts   []Tokens `json:"contexts" jsonschema:"minimum=16,maximum=4194304" jsonschema_description:"Cached tokens in attention."`
	Decode     []Tokens `json:"decode" jsonschema:"minimum=16,maximum=4194304" jsonschema_description:"Cached tokens in decode, tokens in prefill."`
	Batch      []int    `json:"batch" jsonschema:"minimum=1,maximum=1024" jsonschema_description:"Sequences at once."`
	QueryHeads int      `json:"queryHeads" jsonschema:"minimum=1,maximum=1024" jsonschema_description:"attention: query heads of the layer."`
	KVHeads    int      `json:"kvHeads" jsonschema:"minimum=1,maximum=1024" jsonschema_description:"attention: KV heads of the layer."`
	HeadDim    int      `json:"headDim" jsonschema:"minimum=8,maximum=512" jsonschema_description:"attention: width of a head."`
	Shape      string   `json:"shape" jsonschema_description:"Published model whose sizes count (llama-3.1-8b, qwen2.5-7b, smollm2-135m, ...): attention takes its heads, decode and prefill random weights of its shape behind random keys and values; empty: queryHeads, kvHeads and headDim, and the model."`
	Weights    string   `json:"weights" jsonschema:"enum=bf16,enum=q8_0" jsonschema_description:"Number format of a shape's random weights."`
	Project    []string `json:"project" jsonschema:"enum=a10,enum=a100,enum=a100-40g,enum=h100,enum=h200,enum=l4,enum=l40s,enum=rtx4090,enum=t4" jsonschema_description:"attention: cards for which a roofline fitted to the times here projects the same steps."`
	Runs       int      `json:"runs" jsonschema:"minimum=3,maximum=100000" jsonschema_description:"Timed runs of each setting."`
	Presets    []string `json:"presets" jsonschema:"enum=paper,enum=shared,enum=grouped" jsonschema_description:"Presets to time."`
}

// LongBench is the benchmark's settings.
type LongBench struct {
	Data           string   `json:"data" jsonschema_description:"Folder of TASK.jsonl files (also .gz, .zst), data.zip, longbench (pulled) or sample (embedded)."`
	Tasks          []string `json:"tasks" jsonschema_description:"Tasks; empty: none in hashattn run, all in hashattn eval longbench."`
	Samples        int      `json:"samples" jsonschema:"minimum=0,maximum=1000000" jsonschema_description:"Samples of each task; 0: all."`
	PrefillOffset  int      `json:"prefillOffset" jsonschema:"minimum=0,maximum=1048576" jsonschema_description:"Last prompt tokens that use sparse attention, as the generated ones do."`
	QuestionSparse string   `json:"questionSparse" jsonschema:"enum=tail,enum=all,enum=none" jsonschema_description:"tail: the last prefillOffset prompt tokens are sparse; all or none of the prompt otherwise."`
	MaxLength      Tokens   `json:"maxLength" jsonschema:"minimum=0,maximum=1048576" jsonschema_description:"Prompt tokens before middle truncation; 0: the model's context less the answer."`
	Memory         Bytes    `json:"memory" jsonschema_description:"Memory for samples that run at once; 0: half of the machine's."`
	E              bool     `json:"e" jsonschema_description:"LongBench-E: its samples, and scores by length."`
	Levenshtein    bool     `json:"levenshtein" jsonschema_description:"Code similarity by Levenshtein ratio instead of difflib's."`
}

// Output is where files go.
type Output struct {
	Dir string `json:"dir" jsonschema_description:"Folder of runs."`
}

// Default is the experiment that an empty file stands for.
func Default() *Experiment {
	return &Experiment{
		Name:    "experiment",
		Model:   "smollm2-135m",
		Device:  Device{Kind: "auto", Cache: "bf16", Precision: "fast"},
		Data:    Data{Calibration: []string{"calibration"}, Choice: []string{"choice"}, Heldout: []string{"heldout"}},
		Capture: Capture{Context: 4096},
		Train: Train{
			Presets: []string{"shared", "grouped", "paper"}, Steps: 800, PaperSteps: 6400, PaperKeys: 1024, PaperDocs: 1, Bits: 32, QueryBits: 8, Candidates: 2,
			BlockBits: 4, GroupRule: "sum", MassPower: 1,
			Documents: 4, Queries: 64, Keys: 4096, Sink: 128, Local: 128, Seed: 1,
			Calibration: Calibration{Budget: fraction(1, 32), Objective: "error", Per: "set", Least: 0.25, Most: 4, Positions: 64},
		},
		Selectors: []Selector{
			{Name: "hash"}, {Name: "oracle"}, {Name: "oracle", Options: "per=group"}, {Name: "lsh"}, {Name: "streaming"}, {Name: "quest"}, {Name: "doublesparsity"}, {Name: "pq"},
		},
		Sparsities: []Budget{fraction(1, 8), fraction(1, 16), fraction(1, 32), fraction(1, 64)},
		Eval: Eval{
			Recall:     Recall{Queries: 64},
			Perplexity: Perplexity{Tokens: 128},
			NIAH:       NIAH{Contexts: []Tokens{1024, 2048, 4096, 8192}, Depths: 11, Haystack: "heldout/prose"},
			Ruler:      Ruler{Context: 4096, Samples: 20, Seed: 42, Haystack: "heldout/prose"},
		},
		Bench: Bench{
			Parts: []string{"attention", "decode", "prefill"}, Contexts: []Tokens{4096, 32768, 131072},
			Decode: []Tokens{2048, 4096}, Batch: []int{1}, QueryHeads: 32, KVHeads: 8, HeadDim: 128, Runs: 20, Weights: "bf16",
			Presets: []string{"grouped", "shared", "paper"},
		},
		LongBench: LongBench{Data: "sample", PrefillOffset: 128, QuestionSparse: "tail"},
		Output:    Output{Dir: "runs"},
	}
}

// check reports values that are each possible but do not go together.
func (e *Experiment) check() error {
	switch {
	case e.Name == "" || e.Name != cleanName(e.Name):
		return &KeyError{Key: "name", Problem: fmt.Sprintf("%q cannot name a folder; use letters, digits, '-', '_' and '.'", e.Name)}
	case e.Model == "":
		return &KeyError{Key: "model", Problem: "is empty; give an alias such as smollm2-135m, a GGUF file or a Hugging Face folder"}
	case len(e.Sparsities) == 0:
		return &KeyError{Key: "sparsities", Problem: "is empty; give shares of the cached tokens such as 1/32, or counts such as 512"}
	case len(e.Data.Calibration) == 0:
		return &KeyError{Key: "data.calibration", Problem: "names no texts"}
	case len(e.Data.Heldout) == 0:
		return &KeyError{Key: "data.heldout", Problem: "names no texts"}
	case !(e.Train.LearningRate >= 0 && e.Train.LearningRate < 1):
		return &KeyError{Key: "train.learningRate", Problem: fmt.Sprintf("%v is out of range, want 0 to below 1", e.Train.LearningRate)}
	case !(e.Train.Calibration.Least >= 0 && e.Train.Calibration.Least <= 1):
		return &KeyError{Key: "train.calibration.least", Problem: fmt.Sprintf("%v is out of range, want 0 to 1", e.Train.Calibration.Least)}
	case !(e.Train.Calibration.Most >= 1 && e.Train.Calibration.Most <= 1024):
		return &KeyError{Key: "train.calibration.most", Problem: fmt.Sprintf("%v is out of range, want 1 to 1024", e.Train.Calibration.Most)}
	case e.Train.Bits%4 != 0:
		return &KeyError{Key: "train.bits", Problem: fmt.Sprintf("%d is not a multiple of 4", e.Train.Bits)}
	case e.Train.BlockBits > 0 && e.Train.Bits%e.Train.BlockBits != 0:
		return &KeyError{Key: "train.blockBits", Problem: fmt.Sprintf("%d does not divide train.bits %d", e.Train.BlockBits, e.Train.Bits)}
	case !(e.Train.MassPower >= 0 && e.Train.MassPower <= 4):
		return &KeyError{Key: "train.massPower", Problem: fmt.Sprintf("%v is out of range, want 0 to 4", e.Train.MassPower)}
	case e.Bench.QueryHeads%e.Bench.KVHeads != 0:
		return &KeyError{Key: "bench.kvHeads", Problem: fmt.Sprintf("%d does not divide bench.queryHeads %d", e.Bench.KVHeads, e.Bench.QueryHeads)}
	}
	if e.Bench.Shape != "" {
		if _, err := model.Named(e.Bench.Shape); err != nil {
			return &KeyError{Key: "bench.shape", Problem: err.Error()}
		}
	}
	for i, c := range e.Eval.Recall.Contexts {
		if c > e.Capture.Context {
			return &KeyError{Key: fmt.Sprintf("eval.recall.contexts[%d]", i), Problem: fmt.Sprintf("%s is more than capture.context %s", c, e.Capture.Context)}
		}
	}
	return nil
}

// cleanName keeps the characters that a folder's name may have everywhere.
func cleanName(s string) string {
	out := []rune{}
	for _, r := range s {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' && len(out) > 0 {
			out = append(out, r)
		}
	}
	return string(out)
}
