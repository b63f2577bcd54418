package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"

	"golang.org/x/text/unicode/norm"
)

// parts are the stages of a tokenizer.json around its model.
type parts struct {
	normalize      []normalizer
	pre            []splitter
	byteLevel      bool
	prefix, suffix []templateToken
	decoding       decoding
}

// templateToken is a special token of a post-processor: by its ids, or by name if it gives none.
type templateToken struct {
	name string
	ids  []int32
}

// component is the union of the normalizers, pre-tokenizers, post-processors and decoders of tokenizer.json; Type says which it is.
type component struct {
	Type string `json:"type"`

	Normalizers   []component `json:"normalizers"`
	PreTokenizers []component `json:"pretokenizers"`
	Processors    []component `json:"processors"`
	Decoders      []component `json:"decoders"`

	Prepend        string   `json:"prepend"`
	Pattern        *pattern `json:"pattern"`
	Content        string   `json:"content"`
	Behavior       string   `json:"behavior"`
	Invert         bool     `json:"invert"`
	AddPrefixSpace *bool    `json:"add_prefix_space"`
	UseRegex       *bool    `json:"use_regex"`
	Individual     bool     `json:"individual_digits"`
	Replacement    string   `json:"replacement"`
	PrependScheme  string   `json:"prepend_scheme"`
	Split          *bool    `json:"split"`
	Start          int      `json:"start"`
	Stop           int      `json:"stop"`

	Single  []templateItem `json:"single"`
	Special map[string]struct {
		IDs []int32 `json:"ids"`
	} `json:"special_tokens"`
}

type pattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

type templateItem struct {
	SpecialToken *struct {
		ID string `json:"id"`
	} `json:"SpecialToken"`
	Sequence *struct {
		ID string `json:"id"`
	} `json:"Sequence"`
}

// Bounds for hostile files: how deep sequences may nest, how many stages there may be, how much longer each may make a text, and how
// many tokens may stand around one.
const (
	maxDepth       = 8
	maxNormalizers = 4
	maxSplitters   = 8
	maxGrowth      = 4
	maxAround      = 64
	maxMark        = 16 // bytes of what stands for a space
)

func (p *parts) parse(j *tokenizerJSON) error {
	for _, step := range []struct {
		name string
		raw  json.RawMessage
		read func(c *component, depth int) error
	}{
		{"normalizer", j.Normalizer, p.addNormalizer},
		{"pre_tokenizer", j.PreTokenizer, p.addPreTokenizer},
		{"post_processor", j.PostProcessor, p.addProcessor},
		{"decoder", j.Decoder, p.setDecoder},
	} {
		var c *component
		if len(step.raw) > 0 {
			if err := json.Unmarshal(step.raw, &c); err != nil {
				return fmt.Errorf("%s: %w", step.name, err)
			}
		}
		if c == nil {
			if step.name == "decoder" {
				p.decoding.join = " "
			}
			continue
		}
		if err := step.read(c, 0); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// each reads the members of a sequence.
func each(members []component, depth int, read func(c *component, depth int) error) error {
	if depth >= maxDepth {
		return fmt.Errorf("sequences nest deeper than %d", maxDepth)
	}
	for i := range members {
		if err := read(&members[i], depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *parts) addNormalizer(c *component, depth int) error {
	if len(p.normalize) >= maxNormalizers {
		return fmt.Errorf("more than %d steps", maxNormalizers)
	}
	switch c.Type {
	case "Sequence":
		return each(c.Normalizers, depth, p.addNormalizer)
	case "NFC":
		p.normalize = append(p.normalize, unicodeNormalizer("nfc", norm.NFC))
	case "NFD":
		p.normalize = append(p.normalize, unicodeNormalizer("nfd", norm.NFD))
	case "NFKC":
		p.normalize = append(p.normalize, unicodeNormalizer("nfkc", norm.NFKC))
	case "NFKD":
		p.normalize = append(p.normalize, unicodeNormalizer("nfkd", norm.NFKD))
	case "Prepend":
		if len(c.Prepend) > maxMark {
			return fmt.Errorf("a Prepend of %d bytes is not supported", len(c.Prepend))
		}
		p.normalize = append(p.normalize, prependNormalizer(c.Prepend))
	case "Replace":
		if c.Pattern == nil || c.Pattern.String == nil || *c.Pattern.String == "" {
			return fmt.Errorf("a Replace with a pattern that is no literal string is not supported")
		}
		if len(c.Content) > maxGrowth*len(*c.Pattern.String) {
			return fmt.Errorf("a Replace of %d bytes by %d is not supported", len(*c.Pattern.String), len(c.Content))
		}
		p.normalize = append(p.normalize, replaceNormalizer(*c.Pattern.String, c.Content))
	default:
		return fmt.Errorf("type %q is not supported", c.Type)
	}
	return nil
}

func (p *parts) addPreTokenizer(c *component, depth int) error {
	if p.byteLevel {
		return fmt.Errorf("%q after ByteLevel is not supported", c.Type)
	}
	if len(p.pre) >= maxSplitters {
		return fmt.Errorf("more than %d steps", maxSplitters)
	}
	switch c.Type {
	case "Sequence":
		return each(c.PreTokenizers, depth, p.addPreTokenizer)
	case "ByteLevel":
		// Both flags default to true in Hugging Face's tokenizers.
		if c.AddPrefixSpace == nil || *c.AddPrefixSpace {
			p.pre = append(p.pre, prefixSpaceSplitter())
		}
		if c.UseRegex == nil || *c.UseRegex {
			p.pre = append(p.pre, scanPatterns[gpt2Pattern])
		}
		p.byteLevel = true
	case "Digits":
		limit := 0
		if c.Individual {
			limit = 1
		}
		p.pre = append(p.pre, runSplitter("digits", isDigit, limit))
	case "Split":
		s, err := splitOf(c)
		if err != nil {
			return err
		}
		p.pre = append(p.pre, s)
	case "Metaspace":
		m, err := metaspaceOf(c)
		if err != nil {
			return err
		}
		p.pre = append(p.pre, m.splitter())
	default:
		return fmt.Errorf("type %q is not supported", c.Type)
	}
	return nil
}

func splitOf(c *component) (splitter, error) {
	switch {
	case c.Pattern == nil:
		return splitter{}, fmt.Errorf("a Split without a pattern")
	case c.Pattern.Regex != nil:
		scan, ok := scanPatterns[*c.Pattern.Regex]
		if !ok {
			if s, ok := runPatterns[*c.Pattern.Regex]; ok && c.Behavior == "Isolated" && !c.Invert {
				return s, nil
			}
			return splitter{}, fmt.Errorf("the split pattern %.300q is not known", *c.Pattern.Regex)
		}
		// The known patterns leave nothing between their matches, so "keep the matches" and "drop what is no match" are one.
		if c.Behavior == "Isolated" && !c.Invert || c.Behavior == "Removed" && c.Invert {
			return scan, nil
		}
	case c.Pattern.String != nil && *c.Pattern.String != "" && !c.Invert:
		switch c.Behavior {
		case "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext":
			return literalSplitter(*c.Pattern.String, c.Behavior), nil
		}
	}
	return splitter{}, fmt.Errorf("a Split with behavior %q and invert %v is not supported", c.Behavior, c.Invert)
}

// metaspaceOf reads the old form (add_prefix_space) and the new one (prepend_scheme) of Metaspace.
func metaspaceOf(c *component) (metaspace, error) {
	m := metaspace{replacement: c.Replacement, prepend: c.PrependScheme, split: c.Split == nil || *c.Split}
	if m.replacement == "" {
		m.replacement = string(chunkMark)
	}
	if len(m.replacement) > maxMark {
		return m, fmt.Errorf("a Metaspace with a replacement of %d bytes is not supported", len(m.replacement))
	}
	switch m.prepend {
	case "":
		m.prepend = "always"
		if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
			m.prepend = "never"
		}
	case "always", "first", "never":
	default:
		return m, fmt.Errorf("a Metaspace with prepend_scheme %q is not supported", m.prepend)
	}
	return m, nil
}

func (p *parts) addProcessor(c *component, depth int) error {
	switch c.Type {
	case "Sequence":
		return each(c.Processors, depth, p.addProcessor)
	case "ByteLevel": // moves offsets only
	case "TemplateProcessing":
		var before, after []templateToken
		seen := false
		for _, item := range c.Single {
			switch {
			case item.Sequence != nil && !seen:
				seen = true
			case item.SpecialToken != nil:
				tok := templateToken{name: item.SpecialToken.ID, ids: c.Special[item.SpecialToken.ID].IDs}
				if seen {
					after = append(after, tok)
				} else {
					before = append(before, tok)
				}
			default:
				return fmt.Errorf("the template of TemplateProcessing for a single text must have the text once")
			}
		}
		if !seen {
			return fmt.Errorf("the template of TemplateProcessing for a single text leaves the text out")
		}
		p.prefix = append(before, p.prefix...)
		p.suffix = append(p.suffix, after...)
		around := 0
		for _, tok := range slices.Concat(p.prefix, p.suffix) {
			around += max(len(tok.ids), 1)
		}
		if around > maxAround {
			return fmt.Errorf("the template of TemplateProcessing puts %d tokens around a text, more than %d", around, maxAround)
		}
	default:
		return fmt.Errorf("type %q is not supported", c.Type)
	}
	return nil
}

func (p *parts) setDecoder(c *component, depth int) error {
	members, err := flatten(c, 0)
	if err != nil {
		return err
	}
	d := &p.decoding
	fused := false
	for _, c := range members {
		if d.byteLevel {
			return fmt.Errorf("%q after ByteLevel is not supported", c.Type)
		}
		switch {
		case c.Type == "ByteLevel" && len(members) == 1:
			d.byteLevel = true
		case c.Type == "Replace" && c.Content == " " && c.Pattern != nil && c.Pattern.String != nil && d.space == "" && !d.byteFallback:
			d.space = *c.Pattern.String
		case c.Type == "Metaspace" && d.space == "":
			m, err := metaspaceOf(c)
			if err != nil {
				return err
			}
			d.space, d.dropFirst = m.replacement, m.prepend != "never"
		case c.Type == "ByteFallback" && !fused:
			d.byteFallback = true
		case c.Type == "Fuse":
			fused = true
		case c.Type == "Strip" && fused && c.Content == " " && c.Stop == 0 && c.Start >= 0:
			d.strip += c.Start
		default:
			return fmt.Errorf("type %q is not supported there", c.Type)
		}
	}
	return nil
}

func flatten(c *component, depth int) ([]*component, error) {
	if c.Type != "Sequence" {
		return []*component{c}, nil
	}
	var all []*component
	err := each(c.Decoders, depth, func(c *component, depth int) error {
		more, err := flatten(c, depth)
		all = append(all, more...)
		return err
	})
	return all, err
}
