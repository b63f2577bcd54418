package benchmark

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashattn/hashattn/longbench"
	"github.com/hashattn/hashattn/model/tokenizer"
)

// prompter turns questions into the tokens that a model reads.
type prompter struct {
	tokenizer *tokenizer.Tokenizer
	chat      *tokenizer.ChatTemplate // nil if the model has none
	context   int                     // tokens that the model can hold
	maxLength int                     // of a prompt before the chat template; 0: what the context leaves
	truncate  bool
}

// today is the date that chat templates are told, so that the same question
// gives the same prompt tomorrow: the one that Llama 3.1's template has built in.
var today = time.Date(2024, time.July, 26, 0, 0, 0, 0, time.UTC)

// newPrompter reads the tokenizer's chat template, if it has one.
func newPrompter(t *tokenizer.Tokenizer, context, maxLength int, truncate bool) (*prompter, error) {
	p := &prompter{tokenizer: t, context: context, maxLength: maxLength, truncate: truncate}
	chat, err := t.ChatTemplate("")
	if errors.Is(err, tokenizer.ErrNoChatTemplate) {
		return p, nil
	} else if err != nil {
		return nil, err
	}
	chat.Now = func() time.Time { return today }
	p.chat = chat
	return p, nil
}

// maxTries bounds the search for a length that fits: each try cuts what was
// too much, and few tokens come or go where text is encoded again.
const maxTries = 16

// tokens is the question's prompt. As in LongBench's pred.py, a text of more
// than the allowed tokens is decoded without its middle and encoded again, and
// the chat template goes around it afterwards. Where that is too much for the
// context and the answer, the text is cut further.
func (p *prompter) tokens(q *Question) ([]int32, error) {
	room := p.context - q.MaxTokens
	limit := room
	if p.maxLength > 0 {
		limit = p.maxLength
	}
	raw := p.tokenizer.Encode(q.Text, true)
	if len(raw) > limit && !p.truncate {
		return nil, fmt.Errorf("sample %s of %s has %d tokens, the model has room for %d beside the answer", q.ID, q.Task, len(raw), limit)
	}
	for range maxTries {
		text := q.Text
		if len(raw) > limit {
			head, tail := longbench.TruncateMiddle(raw, limit)
			text = p.tokenizer.Decode(head, true) + p.tokenizer.Decode(tail, true)
		}
		ids, err := p.around(q, text)
		if err != nil {
			return nil, fmt.Errorf("sample %s of %s: %w", q.ID, q.Task, err)
		}
		excess := len(ids) - room
		if excess <= 0 {
			return ids, nil
		}
		if !p.truncate {
			return nil, fmt.Errorf("sample %s of %s: a prompt of %d tokens and an answer of %d, the model holds %d", q.ID, q.Task, len(ids), q.MaxTokens, p.context)
		}
		if limit = min(limit, len(raw)) - excess; limit < 2 {
			break
		}
	}
	return nil, fmt.Errorf("sample %s of %s: no prompt fits a context of %d tokens with an answer of %d", q.ID, q.Task, p.context, q.MaxTokens)
}

// around puts the chat template and the answer's beginning around a text. A
// template writes the special tokens itself, so none are added to it.
func (p *prompter) around(q *Question, text string) ([]int32, error) {
	if !q.Chat || p.chat == nil {
		if q.System != "" {
			text = q.System + "\n\n" + text
		}
		return p.tokenizer.Encode(text+q.AnswerPrefix, true), nil
	}
	messages := []tokenizer.Message{{Role: "user", Content: text}}
	if q.System != "" {
		messages = append([]tokenizer.Message{{Role: "system", Content: q.System}}, messages...)
	}
	chat, err := p.chat.Render(messages, true, nil)
	if err != nil {
		return nil, err
	}
	return p.tokenizer.Encode(chat+q.AnswerPrefix, false), nil
}

// probe shows what the chat template does to a question: part of what
// predictions depend on.
func (p *prompter) probe() (string, error) {
	if p.chat == nil {
		return "", nil
	}
	return p.chat.Render([]tokenizer.Message{{Role: "user", Content: "?"}}, true, nil)
}

// newline is the token that ends answers of one line: the last of an encoded
// line end, as LongBench's pred.py takes it.
func (p *prompter) newline() (int32, error) {
	ids := p.tokenizer.Encode("\n", false)
	if len(ids) == 0 {
		return 0, fmt.Errorf("the tokenizer encodes a line end as nothing")
	}
	return ids[len(ids)-1], nil
}
