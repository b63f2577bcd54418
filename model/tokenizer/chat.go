package tokenizer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
	"github.com/nikolalohinski/gonja/v2/nodes"
	"github.com/nikolalohinski/gonja/v2/parser"
	"github.com/nikolalohinski/gonja/v2/tokens"
)

// Message is one turn of a chat.
type Message struct {
	Role    string // "system", "user", "assistant" or "tool"
	Content string
	// Fields are further keys, such as tool_calls or reasoning_content; "content" here stands in place of Content (a list of parts,
	// say). Values are what encoding/json can write; a json.RawMessage keeps the order of its keys. A template that knows only text
	// prints a list of parts as Python would, where Jinja itself gives an error.
	Fields map[string]any
}

// ChatTemplate renders chats as transformers' apply_chat_template does: a Jinja template with trim_blocks and lstrip_blocks, the
// functions raise_exception and strftime_now, break and continue, the generation block and Python's tojson.
//
// A template is a program that comes with a model. It can neither read files nor reach anything but its input, but it can loop.
type ChatTemplate struct {
	// Now is the clock of strftime_now; time.Now if nil.
	Now func() time.Time

	template *exec.Template
	special  map[string]any
}

// ErrNoChatTemplate is what [Tokenizer.ChatTemplate] gives for a model that has none.
var ErrNoChatTemplate = errors.New("the model has no chat template: it is not a chat model, or its tokenizer_config.json or chat_template.jinja is missing")

// ChatTemplate returns the model's chat template of this name ("" for the default one; a few models have "tool_use" beside it). A
// model without one gives [ErrNoChatTemplate].
func (t *Tokenizer) ChatTemplate(name string) (*ChatTemplate, error) {
	if name == "" {
		name = "default"
	}
	source, ok := t.chat[name]
	if !ok {
		if len(t.chat) == 0 {
			return nil, ErrNoChatTemplate
		}
		return nil, fmt.Errorf("the model has no chat template %q, only %s", name, strings.Join(slices.Sorted(maps.Keys(t.chat)), ", "))
	}
	special := map[string]string{}
	for key, id := range map[string]int32{"bos_token": t.bos, "eos_token": t.eos, "pad_token": t.pad, "unk_token": t.unk} {
		if id != None {
			special[key] = t.Token(id)
		}
	}
	return ParseChatTemplate(source, special)
}

// ParseChatTemplate parses the source of a chat template. special gives it bos_token, eos_token and the like.
func ParseChatTemplate(source string, special map[string]string) (c *ChatTemplate, err error) {
	// The template engine panics on some malformed templates.
	defer func() {
		if e := recover(); e != nil {
			c, err = nil, fmt.Errorf("chat template: %v", e)
		}
	}()
	const name = "/chat_template"
	loader, err := loaders.NewMemoryLoader(map[string]string{name: rewriteConditionals(normalizeSource(source))})
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	cfg := config.New()
	cfg.TrimBlocks, cfg.LeftStripBlocks = true, true
	c = &ChatTemplate{special: map[string]any{}}
	for key, token := range special {
		c.special[key] = token
	}
	if c.template, err = exec.NewTemplate(name, cfg, loader, chatEnvironment()); err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	return c, nil
}

// normalizeSource does what Jinja's lexer does to a source: one kind of line end, and no line end at the very end.
func normalizeSource(source string) string {
	source = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(source)
	return strings.TrimSuffix(source, "\n")
}

// Render returns the text of a chat. addGenerationPrompt adds what comes before the model's answer. extra gives further variables, as
// keyword arguments of apply_chat_template do (tools, enable_thinking, date_string, ...); values are as in [Message.Fields]. An error
// that the template raises itself is a [*TemplateError].
func (c *ChatTemplate) Render(messages []Message, addGenerationPrompt bool, extra map[string]any) (text string, err error) {
	defer func() {
		if e := recover(); e != nil {
			text, err = "", fmt.Errorf("chat template: %v", e)
		}
	}()
	vars := maps.Clone(c.special)
	vars["tools"], vars["documents"] = nil, nil
	for key, v := range extra {
		if vars[key], err = templateValue(v); err != nil {
			return "", fmt.Errorf("chat template: variable %s: %w", key, err)
		}
	}
	turns := make(list, len(messages))
	for i, m := range messages {
		if turns[i], err = m.value(); err != nil {
			return "", fmt.Errorf("chat template: message %d: %w", i, err)
		}
	}
	vars["messages"], vars["add_generation_prompt"] = turns, addGenerationPrompt
	var raised *TemplateError // the engine wraps errors so that their type is lost
	vars["raise_exception"] = func(message string) (string, error) {
		raised = &TemplateError{message}
		return "", raised
	}
	vars["strftime_now"] = func(format string) (string, error) {
		now := time.Now
		if c.Now != nil {
			now = c.Now
		}
		return strftime(now(), format)
	}
	if text, err = c.template.ExecuteToString(exec.NewContext(vars)); err != nil {
		if raised != nil {
			return "", fmt.Errorf("chat template: %w", raised)
		}
		return "", fmt.Errorf("chat template: %w", err)
	}
	return text, nil
}

// TemplateError is an error that a chat template raises itself, for a chat that it does not support.
type TemplateError struct{ Message string }

func (e *TemplateError) Error() string { return e.Message }

// value turns a message into the mapping that the template sees.
func (m Message) value() (*exec.Dict, error) {
	d := exec.NewDict()
	put := func(key string, v any) {
		d.Pairs = append(d.Pairs, &exec.Pair{Key: exec.AsValue(key), Value: exec.ToValue(v)})
	}
	put("role", m.Role)
	if _, ok := m.Fields["content"]; !ok {
		put("content", m.Content)
	}
	for _, key := range slices.Sorted(maps.Keys(m.Fields)) {
		v, err := templateValue(m.Fields[key])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		put(key, v)
	}
	return d, nil
}

// chatEnvironment is gonja's set of filters, tests, methods and statements with what differs from Jinja replaced (chat_python.go), and
// without the statements that read other templates.
func chatEnvironment() *exec.Environment {
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	for name, f := range pythonFilters {
		replace := filters.Replace
		if !filters.Exists(name) {
			replace = filters.Register
		}
		if err := replace(name, f); err != nil {
			panic(err)
		}
	}
	for _, name := range listFilters {
		f, ok := filters.Get(name)
		if !ok {
			continue
		}
		err := filters.Replace(name, func(e *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
			return toList(f(e, in, params))
		})
		if err != nil {
			panic(err)
		}
	}
	statements := map[string]parser.ControlStructureParser{"generation": parseGeneration}
	for _, name := range []string{"if", "for", "set", "macro", "call", "filter", "raw", "with", "break", "continue", "autoescape"} {
		if s, ok := builtins.ControlStructures.Get(name); ok {
			statements[name] = s
		}
	}
	return &exec.Environment{
		Context:           exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables),
		Filters:           filters,
		Tests:             pythonTests(),
		ControlStructures: exec.NewControlStructureSet(statements),
		Methods:           pythonMethods(),
	}
}

// generation is the block {% generation %}, which marks the assistant's text for training and otherwise does nothing.
type generation struct{ body *nodes.Wrapper }

func parseGeneration(p, args *parser.Parser) (nodes.ControlStructure, error) {
	body, _, err := p.WrapUntil("endgeneration")
	if err != nil {
		return nil, err
	}
	if !args.End() {
		return nil, args.Error("generation takes no arguments", args.Current())
	}
	return &generation{body}, nil
}

func (g *generation) Position() *tokens.Token { return g.body.Position() }
func (g *generation) String() string          { return "generation" }

func (g *generation) Execute(r *exec.Renderer, _ *nodes.ControlStructureBlock) error {
	return r.ExecuteWrapper(g.body)
}
