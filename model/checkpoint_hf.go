package model

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model/safetensors"
	"github.com/hashattn/hashattn/model/tokenizer"
)

// hfFolder is a checkpoint in Hugging Face's layout: config.json, safetensors
// (sharded or not), tokenizer.json.
type hfFolder struct {
	path    string
	conf    Config
	row     architecture
	tensors *safetensors.Model
	prefix  string // before "model." in tensor names
}

// hfConfig is the part of config.json that matters here.
type hfConfig struct {
	Architectures    []string `json:"architectures"`
	Name             string   `json:"_name_or_path"`
	Layers           int      `json:"num_hidden_layers"`
	Width            int      `json:"hidden_size"`
	FeedForward      int      `json:"intermediate_size"`
	QueryHeads       int      `json:"num_attention_heads"`
	KVHeads          int      `json:"num_key_value_heads"`
	HeadDim          int      `json:"head_dim"`
	Vocabulary       int      `json:"vocab_size"`
	Context          int      `json:"max_position_embeddings"`
	NormEps          float32  `json:"rms_norm_eps"`
	RopeTheta        float64  `json:"rope_theta"`
	RopeLocal        float64  `json:"rope_local_base_freq"`
	RopeScaling      *hfRope  `json:"rope_scaling"`
	RopeParameters   *hfRopes `json:"rope_parameters"`
	Window           int      `json:"sliding_window"`
	UseWindow        *bool    `json:"use_sliding_window"`
	WindowPattern    int      `json:"sliding_window_pattern"`
	WindowPattern2   int      `json:"_sliding_window_pattern"`
	LayerTypes       []string `json:"layer_types"`
	QueryPreAttn     float64  `json:"query_pre_attn_scalar"`
	Activation       string   `json:"hidden_act"`
	ActivationGemma  string   `json:"hidden_activation"`
	FinalSoftcap     *float64 `json:"final_logit_softcapping"`
	AttentionSoftcap *float64 `json:"attn_logit_softcapping"`
}

type hfRope struct {
	Theta    float64 `json:"rope_theta"`
	Kind     string  `json:"rope_type"`
	OldKind  string  `json:"type"`
	Factor   float64 `json:"factor"`
	LowFreq  float64 `json:"low_freq_factor"`
	HighFreq float64 `json:"high_freq_factor"`
	Original float64 `json:"original_max_position_embeddings"`
}

// hfRopes is rope_parameters of transformers 5: one set of parameters, or one
// per kind of layer.
type hfRopes struct {
	hfRope
	Full    *hfRope `json:"full_attention"`
	Sliding *hfRope `json:"sliding_attention"`
}

func openHF(path string) (*hfFolder, error) {
	f := &hfFolder{path: path}
	if err := f.readConfig(); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(path, "config.json"), err)
	}
	var err error
	if f.tensors, err = safetensors.OpenModel(path); err != nil {
		return nil, err
	}
	for _, prefix := range []string{"", "language_model.", "model.language_model."} {
		if _, ok := f.tensors.Tensor(prefix + "model.embed_tokens.weight"); ok {
			f.prefix = prefix
			return f, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("%s: no tensor model.embed_tokens.weight", path)
}

func (f *hfFolder) readConfig() error {
	text, err := os.ReadFile(filepath.Join(f.path, "config.json"))
	if err != nil {
		return err
	}
	var h hfConfig
	if err := json.Unmarshal(text, &h); err != nil {
		return err
	}
	if len(h.Architectures) != 1 {
		return fmt.Errorf("architectures is %v, want one class", h.Architectures)
	}
	name, row, err := lookupHF(h.Architectures[0])
	if err != nil {
		return err
	}
	if h.FinalSoftcap != nil || h.AttentionSoftcap != nil {
		return fmt.Errorf("logit soft-capping is not supported")
	}
	if err := h.checkActivation(); err != nil {
		return err
	}
	c := Config{
		Architecture: name, Name: h.Name, Layers: h.Layers, Width: h.Width, FeedForward: h.FeedForward,
		QueryHeads: h.QueryHeads, KVHeads: h.KVHeads, HeadDim: h.HeadDim, Vocabulary: h.Vocabulary,
		Context: h.Context, NormEps: h.NormEps,
		Rope: Rope{Base: h.RopeTheta}, LocalRope: Rope{Base: h.RopeLocal},
	}
	if c.Name == "" {
		c.Name = filepath.Base(f.path)
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.QueryHeads
	}
	if c.HeadDim == 0 && c.QueryHeads > 0 {
		c.HeadDim = c.Width / c.QueryHeads
	}
	if h.QueryPreAttn > 0 {
		c.QueryScale = float32(1 / math.Sqrt(h.QueryPreAttn))
	}
	if h.Window > 0 && (h.UseWindow == nil || *h.UseWindow) {
		c.Window, c.GlobalEvery = h.Window, max(h.WindowPattern, h.WindowPattern2)
		if err := c.setLayerTypes(h.LayerTypes); err != nil {
			return err
		}
	}
	rope := h.RopeScaling
	if p := h.RopeParameters; p != nil {
		rope = &p.hfRope
		if p.Full != nil {
			rope = p.Full
		}
		if p.Sliding != nil {
			c.LocalRope.Base = p.Sliding.Theta
		}
	}
	if rope != nil {
		if rope.Theta > 0 {
			c.Rope.Base = rope.Theta
		}
		kind := rope.Kind
		if kind == "" {
			kind = rope.OldKind
		}
		if kind != "" && kind != "default" {
			c.Rope.Scaling, c.Rope.Factor = kind, rope.Factor
			c.Rope.LowFreq, c.Rope.HighFreq, c.Rope.Original = rope.LowFreq, rope.HighFreq, rope.Original
		}
	}
	if c.Rope.Base == 0 {
		c.Rope.Base = 10000
	}
	if c.Window > 0 && c.LocalRope.Base == 0 {
		c.LocalRope = c.Rope
	}
	if _, err := c.Rope.Frequencies(c.HeadDim); err != nil {
		return err
	}
	f.conf, f.row = c, row
	return row.complete(&f.conf)
}

// checkActivation reports a nonlinearity other than the architecture's.
func (h hfConfig) checkActivation() error {
	want, got := "silu", h.Activation
	if strings.HasPrefix(h.Architectures[0], "Gemma") {
		want, got = "gelu_pytorch_tanh", h.ActivationGemma
	}
	if got != "" && got != want {
		return fmt.Errorf("activation %q is not supported for %s, want %q", got, h.Architectures[0], want)
	}
	return nil
}

// setLayerTypes turns layer_types into Window and GlobalEvery.
func (c *Config) setLayerTypes(types []string) error {
	if len(types) == 0 {
		return nil
	}
	global := 0
	for i, t := range types {
		if t == "full_attention" {
			if global == 0 {
				global = i + 1
			}
			if (i+1)%global != 0 {
				return fmt.Errorf("layer_types without a fixed period")
			}
		} else if global > 0 && (i+1)%global == 0 {
			return fmt.Errorf("layer_types without a fixed period")
		}
	}
	switch global {
	case 1:
		c.Window, c.GlobalEvery = 0, 0
	default:
		c.GlobalEvery = global
		if global == 0 {
			c.GlobalEvery = len(types) + 1 // none is global
		}
	}
	return nil
}

func (f *hfFolder) config() (Config, error) { return f.conf, nil }

func (f *hfFolder) tokenizer() (*tokenizer.Tokenizer, error) { return tokenizer.FromDir(f.path) }

var blockName = regexp.MustCompile(`^blk\.(\d+)\.(\w+)\.(weight|bias)$`)

var hfNames = map[string]string{
	"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight",
	"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
	"attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
	"ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}

// hfPostNorms replaces names where the feed-forward has norms on both sides.
var hfPostNorms = map[string]string{
	"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
}

func (f *hfFolder) find(name string) (safetensors.Tensor, bool) {
	if other, ok := hfNames[name]; ok {
		return f.tensors.Tensor(f.prefix + other)
	}
	m := blockName.FindStringSubmatch(name)
	if m == nil {
		return safetensors.Tensor{}, false
	}
	part, ok := hfNames[m[2]]
	if f.conf.PostNorms {
		if p, post := hfPostNorms[m[2]]; post {
			part, ok = p, true
		}
	}
	if !ok {
		return safetensors.Tensor{}, false
	}
	return f.tensors.Tensor(f.prefix + "model.layers." + m[1] + "." + part + "." + m[3])
}

func (f *hfFolder) matrix(name string) (kernels.Matrix, bool, error) {
	t, ok := f.find(name)
	if !ok {
		return kernels.Matrix{}, false, nil
	}
	if len(t.Shape) != 2 {
		return kernels.Matrix{}, true, fmt.Errorf("%s: tensor %s has shape %v, want two dimensions", f.path, t.Name, t.Shape)
	}
	return kernels.Matrix{Name: t.Name, Type: t.Type, Rows: t.Shape[0], Cols: t.Shape[1], Data: t.Data}, true, nil
}

func (f *hfFolder) vector(name string) ([]float32, bool, error) {
	t, ok := f.find(name)
	if !ok {
		return nil, false, nil
	}
	if len(t.Shape) != 1 {
		return nil, true, fmt.Errorf("%s: tensor %s has shape %v, want one dimension", f.path, t.Name, t.Shape)
	}
	v, err := floats(t.Name, t.Type, t.Shape[0], t.Data)
	if err != nil {
		return nil, true, fmt.Errorf("%s: %w", f.path, err)
	}
	if f.row.normOffset != 0 && strings.HasSuffix(name, "norm.weight") {
		for i := range v {
			v[i] += f.row.normOffset
		}
	}
	return v, true, nil
}

func (f *hfFolder) fingerprint() string { return fingerprint(f.conf, f.tensors.Tensors) }

func (f *hfFolder) Close() error { return f.tensors.Close() }
