package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const configName = "tokenizer_config.json"

// hfConfig is the part of tokenizer_config.json that is used here.
type hfConfig struct {
	Class         string                `json:"tokenizer_class"`
	BOS           configToken           `json:"bos_token"`
	EOS           configToken           `json:"eos_token"`
	PAD           configToken           `json:"pad_token"`
	Unknown       configToken           `json:"unk_token"`
	AddBOS        *bool                 `json:"add_bos_token"`
	AddEOS        *bool                 `json:"add_eos_token"`
	AddedDecoder  map[string]addedToken `json:"added_tokens_decoder"`
	ChatTemplates chatTemplates         `json:"chat_template"`
}

// configToken is a token, given as a string or as an AddedToken object; "" for none.
type configToken string

func (c *configToken) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err == nil {
		if s != nil {
			*c = configToken(*s)
		}
		return nil
	}
	var o struct {
		Content string `json:"content"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("a token is neither a string nor an object with content: %.60s", b)
	}
	*c = configToken(o.Content)
	return nil
}

// chatTemplates are a model's chat templates by name; "default" is the one in use.
type chatTemplates map[string]string

func (c *chatTemplates) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err == nil {
		if s != nil {
			c.set("default", *s)
		}
		return nil
	}
	var list []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("chat_template is neither a string nor a list of names and templates: %.60s", b)
	}
	for _, t := range list {
		c.set(t.Name, t.Template)
	}
	return nil
}

func (c *chatTemplates) set(name, source string) {
	if *c == nil {
		*c = chatTemplates{}
	}
	(*c)[name] = source
}

func parseConfig(b []byte) (*hfConfig, error) {
	c := &hfConfig{}
	if b == nil {
		return c, nil
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%s: %w", configName, err)
	}
	return c, nil
}

// mergeAdded adds the tokens of added_tokens_decoder that the tokenizer lacks, as transformers does; the flags of those it has stand.
func (c *hfConfig) mergeAdded(list []addedToken) ([]addedToken, error) {
	have := make(map[string]bool, len(list))
	for _, a := range list {
		have[a.Content] = true
	}
	var more []addedToken
	for key, a := range c.AddedDecoder {
		if have[a.Content] {
			continue
		}
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil || id < 0 {
			return nil, fmt.Errorf("%s: added_tokens_decoder: %.40q is not an id", configName, key)
		}
		a.ID = int32(id)
		more = append(more, a)
	}
	slices.SortFunc(more, func(x, y addedToken) int { return int(x.ID) - int(y.ID) })
	return append(slices.Clone(list), more...), nil
}

// apply sets the special tokens of t.
func (c *hfConfig) apply(t *Tokenizer) error {
	for _, s := range []struct {
		name  string
		token configToken
		id    *int32
	}{{"bos_token", c.BOS, &t.bos}, {"eos_token", c.EOS, &t.eos}, {"pad_token", c.PAD, &t.pad}, {"unk_token", c.Unknown, &t.unk}} {
		if s.token == "" {
			continue
		}
		id, ok := t.ids[string(s.token)]
		if !ok {
			return fmt.Errorf("%s: %s %q is not in the vocabulary", configName, s.name, string(s.token))
		}
		*s.id = id
	}
	t.chat = c.ChatTemplates
	// The Python classes of these models replace the post-processor by what the two flags say.
	switch strings.TrimSuffix(c.Class, "Fast") {
	case "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer":
		if c.AddBOS != nil || c.AddEOS != nil {
			return t.surround(configName, c.AddBOS == nil || *c.AddBOS, c.AddEOS != nil && *c.AddEOS)
		}
	}
	return nil
}

// surround sets what stands around a text to BOS and EOS.
func (t *Tokenizer) surround(source string, bos, eos bool) error {
	t.prefix, t.suffix = nil, nil
	if bos {
		if t.bos == None {
			return fmt.Errorf("%s: BOS is to be added, but there is no BOS token", source)
		}
		t.prefix = []int32{t.bos}
	}
	if eos {
		if t.eos == None {
			return fmt.Errorf("%s: EOS is to be added, but there is no EOS token", source)
		}
		t.suffix = []int32{t.eos}
	}
	return nil
}
