package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hashattn/hashattn/configs"
	"github.com/hashattn/hashattn/eval"
	"github.com/hashattn/hashattn/kernels"
	"github.com/hashattn/hashattn/model"
	"github.com/hashattn/hashattn/model/selector"
	"github.com/hashattn/hashattn/model/tokenizer"
)

type generateOptions struct {
	prompt, promptFile string
	chat               bool
	system             string
	maxTokens          int
	temperature, topP  float64
	seed               uint64
	mapping            string
	selector           string
	sparsity           string
	offset             int
	force              bool
}

func (a *app) generateCommand() *cobra.Command {
	var o generateOptions
	c := &cobra.Command{
		Use:   "generate",
		Short: "Continue a text, with dense or sparse attention",
		Long: `generate continues a prompt and prints the text, then tokens per second and the
density: the share of cached tokens that attention really read. With --mapping
(or --selector) and --sparsity decoding is sparse behind a dense prefill.
` + exitHelp,
		Example: `  hashattn generate --prompt "The old man and" --max-tokens 64
  hashattn generate --chat --prompt "Name three rivers." --temperature 0.7
  hashattn generate --prompt-file book.txt --mapping grouped.safetensors --sparsity 1/32
  hashattn generate --prompt-file - --selector quest:page=16 --sparsity 512 < book.txt`,
		Args: args(cobra.NoArgs),
		RunE: a.inSession(func(ctx context.Context, s *session) error {
			return s.runGenerate(ctx, o)
		}),
	}
	a.bindKeys(c, "model", "device", "train.sink", "train.local", "train.denseLayers")
	f := c.Flags()
	f.StringVarP(&o.prompt, "prompt", "p", "", "text to continue")
	f.StringVar(&o.promptFile, "prompt-file", "", "`file` of the text to continue, - for standard input")
	f.BoolVar(&o.chat, "chat", false, "put the prompt into the model's chat template")
	f.StringVar(&o.system, "system", "", "system message, with --chat")
	f.IntVarP(&o.maxTokens, "max-tokens", "n", 128, "tokens to make at most")
	f.Float64Var(&o.temperature, "temperature", 0, "0 takes the likeliest token")
	f.Float64Var(&o.topP, "top-p", 1, "draw from the smallest set of tokens of this probability")
	f.Uint64Var(&o.seed, "seed", 1, "of drawing")
	f.StringVar(&o.mapping, "mapping", "", "hash mapping `file`: sparse decoding")
	f.StringVar(&o.selector, "selector", "", "another selector, such as quest:page=16, or hash:rerank=2,p=0.95 with --mapping")
	f.StringVar(&o.sparsity, "sparsity", "1/32", "chosen tokens: a share such as 1/32 or a count such as 512")
	f.IntVar(&o.offset, "prefill-offset", 1, "last prompt tokens that are read sparsely too")
	f.BoolVar(&o.force, "force", false, "use a mapping that was trained for other weights")
	return c
}

// generated is what generate prints as JSON.
type generated struct {
	Text            string  `json:"text"`
	Ended           bool    `json:"ended"` // by the model, not by --max-tokens
	PromptTokens    int     `json:"promptTokens"`
	Tokens          int     `json:"tokens"`
	PrefillSeconds  float64 `json:"prefillSeconds"`
	PrefillPerS     float64 `json:"prefillTokensPerSecond"`
	DecodeSeconds   float64 `json:"decodeSeconds"`
	DecodePerSecond float64 `json:"decodeTokensPerSecond"`
	Density         float64 `json:"density"`
	Selector        string  `json:"selector"`
	Preset          string  `json:"preset,omitempty"`
	Budget          string  `json:"budget,omitempty"`
	Device          string  `json:"device"`
	Model           string  `json:"model"`
}

func (s *session) runGenerate(ctx context.Context, o generateOptions) error {
	text, err := o.text()
	if err != nil {
		return err
	}
	if o.maxTokens < 1 || !(o.temperature >= 0) || math.IsInf(o.temperature, 0) || !(o.topP > 0 && o.topP <= 1) || o.offset < 1 {
		return usagef("want --max-tokens and --prefill-offset of at least 1, --temperature of at least 0, --top-p above 0 and at most 1")
	}
	var budget configs.Budget
	if err := budget.UnmarshalText([]byte(o.sparsity)); err != nil {
		return usagef("--sparsity: %w", err)
	}
	m, err := s.openModel(ctx)
	if err != nil {
		return err
	}
	prompt, err := o.encode(m, text)
	if err != nil {
		return err
	}
	attention, set, err := s.generateAttention(m, o, budget.Budget)
	if err != nil {
		return err
	}
	g, err := s.generate(ctx, m, prompt, attention, o)
	if err != nil {
		return err
	}
	g.Selector, g.Preset = set.Selector, set.Preset
	if g.Selector != "dense" {
		g.Budget = budget.String()
	}
	if s.app.json {
		return s.app.printJSON(g)
	}
	s.app.printf("\n")
	what := g.Selector
	if g.Budget != "" {
		what = strings.TrimSpace(g.Selector+" "+g.Preset) + " " + g.Budget
	}
	s.app.progress.logf("%d tokens at %.1f tokens/s behind %d (prefill %.1f tokens/s), %s, density %.4f, %s",
		g.Tokens, g.DecodePerSecond, g.PromptTokens, g.PrefillPerS, what, g.Density, g.Device)
	return nil
}

// text is the prompt.
func (o generateOptions) text() (string, error) {
	switch {
	case (o.prompt == "") == (o.promptFile == ""):
		return "", usagef("give the text with --prompt or --prompt-file, one of them")
	case o.system != "" && !o.chat:
		return "", usagef("--system needs --chat")
	case o.prompt != "":
		return o.prompt, nil
	case o.promptFile == "-":
		raw, err := io.ReadAll(os.Stdin)
		return string(raw), err
	}
	raw, err := os.ReadFile(o.promptFile)
	return string(raw), asInput(err)
}

// encode is the prompt as tokens.
func (o generateOptions) encode(m *model.Model, text string) ([]int32, error) {
	var ids []int32
	if !o.chat {
		ids = m.Tokenizer.Encode(text, true)
	} else {
		template, err := m.Tokenizer.ChatTemplate("")
		if err != nil {
			return nil, asInput(fmt.Errorf("--chat: %s: %w", m.Name, err))
		}
		var messages []tokenizer.Message
		if o.system != "" {
			messages = append(messages, tokenizer.Message{Role: "system", Content: o.system})
		}
		chat, err := template.Render(append(messages, tokenizer.Message{Role: "user", Content: text}), true, nil)
		if err != nil {
			return nil, fmt.Errorf("--chat: %w", err)
		}
		ids = m.Tokenizer.Encode(chat, false) // the template has the special tokens
	}
	switch {
	case len(ids) == 0:
		return nil, usagef("the prompt is empty")
	case len(ids)+o.maxTokens > m.Context:
		return nil, usagef("the prompt of %d tokens and %d new ones are more than %s was trained for (%d)", len(ids), o.maxTokens, m.Name, m.Context)
	}
	return ids, nil
}

// generateAttention is how decoding attends: nil for dense.
func (s *session) generateAttention(m *model.Model, o generateOptions, b kernels.Budget) (*selector.Sparse, eval.Setting, error) {
	if o.mapping == "" && o.selector == "" {
		return nil, eval.Setting{Selector: "dense"}, nil
	}
	sel := configs.Selector{Name: "hash"}
	if o.selector != "" {
		if err := sel.UnmarshalText([]byte(o.selector)); err != nil {
			return nil, eval.Setting{}, usagef("--selector: %w", err)
		}
	}
	if (sel.Name == "hash") != (o.mapping != "") {
		return nil, eval.Setting{}, usagef("--mapping goes with the selector hash, and only with it")
	}
	src := eval.Source{Method: sel.Description(), Sink: s.Train.Sink, Local: s.Train.Local, Candidates: sel.Rerank, DenseLayers: s.Train.DenseLayers, Mass: sel.P}
	if o.mapping != "" {
		mappings, err := loadMappings([]string{o.mapping})
		if err != nil {
			return nil, eval.Setting{}, err
		}
		mp := mappings[0]
		if err := mp.CheckModel(m.Shape()); err != nil && o.force {
			s.app.progress.logf("--force: %v", err)
			mp.Model.Fingerprint = m.Fingerprint
		}
		src = s.mappingSource(mp, sel)
	}
	set, err := eval.NewSetting(m.Device, m.Shape(), m.QueryScale, src, nil)
	if err != nil {
		return nil, set, asInput(err)
	}
	sparse, err := set.SparseFor(m, b)
	if err != nil {
		return nil, set, usageError{err}
	}
	return sparse, set, nil
}

// generate prefills densely up to the offset and decodes, printing as it goes.
func (s *session) generate(ctx context.Context, m *model.Model, prompt []int32, sparse *selector.Sparse, o generateOptions) (generated, error) {
	r, err := m.NewRunner(chunk(s.Device, m.Device), 1)
	if err != nil {
		return generated{}, err
	}
	seq, err := m.NewSequence(len(prompt)+o.maxTokens, cacheType(s.Device))
	if err != nil {
		return generated{}, err
	}
	begin := time.Now()
	from := max(0, len(prompt)-o.offset)
	task := s.app.progress.task("prefill", false)
	for seq.Len() < from {
		part := prompt[seq.Len():min(seq.Len()+r.Rows, from)]
		if err := r.Prefill(ctx, seq, part, model.Dense{Model: m}, false); err != nil {
			return generated{}, err
		}
		task.update(seq.Len(), from)
	}
	task.end()
	var attention model.Attention = model.Dense{Model: m}
	if sparse != nil {
		attention = sparse
		if seq.Index, err = sparse.Build(seq.Cache); err != nil {
			return generated{}, err
		}
	}
	prefill := time.Since(begin)
	var text strings.Builder
	decoder := m.Tokenizer.NewDecoder(true)
	emit := func(piece string) {
		text.WriteString(piece)
		if !s.app.json {
			s.app.printf("%s", piece)
		}
	}
	g, err := r.Generate(ctx, seq, prompt[from:], attention, attention, model.GenerateOptions{
		MaxTokens: o.maxTokens, Temperature: o.temperature, TopP: o.topP, Seed: o.seed,
		Stop: func(token int32) bool {
			emit(decoder.Next(token))
			return false
		},
	})
	emit(decoder.Flush())
	if err != nil {
		return generated{}, err
	}
	prefill += g.Prefill
	out := generated{
		Text: text.String(), Ended: g.Ended, PromptTokens: len(prompt), Tokens: len(g.Tokens), PrefillSeconds: prefill.Seconds(),
		PrefillPerS: float64(len(prompt)) / prefill.Seconds(), DecodeSeconds: g.Decode.Seconds(), Density: g.AttendedDensity,
		Device: m.Device.Info().Name, Model: m.Name,
	}
	if g.DecodeSteps > 0 {
		out.DecodePerSecond = float64(g.DecodeSteps) / g.Decode.Seconds()
	}
	if sparse != nil && g.DecodeSteps > 0 && len(sparse.Layers()) == 0 {
		return out, errors.New("no layer attended sparsely")
	}
	return out, nil
}
