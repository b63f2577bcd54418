package tokenizer

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// goldenChat is a template and what transformers makes of it; see scripts/goldens/chat.py.
type goldenChat struct {
	Name     string            `json:"name"`
	Template *string           `json:"template"` // null: not to be redistributed
	Special  map[string]string `json:"special"`
	Cases    []struct {
		Messages []map[string]json.RawMessage `json:"messages"`
		Add      bool                         `json:"add"`
		Extra    map[string]json.RawMessage   `json:"extra"`
		Want     *string                      `json:"want"` // null: the template raises Error
		Error    string                       `json:"error"`
	} `json:"cases"`
}

// toMessages brings the raw messages of a case into Message's form.
func toMessages(t *testing.T, raw []map[string]json.RawMessage) []Message {
	t.Helper()
	var list []Message
	for _, m := range raw {
		var out Message
		for key, v := range m {
			switch {
			case key == "role":
				if err := json.Unmarshal(v, &out.Role); err != nil {
					t.Fatal(err)
				}
			case key == "content" && v[0] == '"':
				if err := json.Unmarshal(v, &out.Content); err != nil {
					t.Fatal(err)
				}
			default:
				if out.Fields == nil {
					out.Fields = map[string]any{}
				}
				out.Fields[key] = v
			}
		}
		list = append(list, out)
	}
	return list
}

func TestChatGolden(t *testing.T) {
	path := "testdata/chat.json.zst"
	if p := os.Getenv("HASHATTN_CHAT_GOLDEN"); p != "" {
		path = p
	}
	var golden []goldenChat
	unpackJSON(t, path, &golden)
	if len(golden) == 0 {
		t.Fatal("no templates")
	}
	for _, g := range golden {
		t.Run(filepath.Base(g.Name), func(t *testing.T) {
			if g.Template == nil {
				g.Template = sharedTemplate(t, g.Name)
			}
			c, err := ParseChatTemplate(*g.Template, g.Special)
			if err != nil {
				t.Fatal(err)
			}
			c.Now = func() time.Time { return time.Date(2024, 7, 6, 15, 4, 5, 0, time.UTC) }
			if len(g.Cases) < 20 {
				t.Fatalf("%d cases", len(g.Cases))
			}
			for i, k := range g.Cases {
				extra := map[string]any{}
				for key, v := range k.Extra {
					extra[key] = v
				}
				got, err := c.Render(toMessages(t, k.Messages), k.Add, extra)
				switch {
				case k.Want == nil:
					var raised *TemplateError
					if !errors.As(err, &raised) || raised.Message != k.Error {
						t.Errorf("case %d: error %v and %q, want error %q", i, err, got, k.Error)
					}
				case err != nil:
					t.Errorf("case %d: %v", i, err)
				case got != *k.Want:
					at := 0
					for at < min(len(got), len(*k.Want)) && got[at] == (*k.Want)[at] {
						at++
					}
					t.Errorf("case %d: byte %d: got %.120q, want %.120q", i, at, got[at:], (*k.Want)[at:])
				}
			}
		})
	}
}

// sharedTemplate reads a template that is not checked in.
func sharedTemplate(t *testing.T, name string) *string {
	t.Helper()
	dir := os.Getenv("HASHATTN_SHARED_DATA")
	if dir == "" {
		t.Skipf("HASHATTN_SHARED_DATA is not set: the chat template of %s is not checked", name)
	}
	config, err := parseConfig(unpack(t, filepath.Join(dir, "tokenizers", name, configName)))
	if err != nil {
		t.Fatal(err)
	}
	source := config.ChatTemplates["default"]
	if source == "" {
		t.Fatalf("%s has no chat template", name)
	}
	return &source
}

func TestChatErrors(t *testing.T) {
	for name, source := range map[string]string{
		"unclosed block":     "{% if x %}",
		"unclosed variable":  "{{ x ",
		"unknown statement":  "{% frob %}",
		"reads a file":       "{% include '/etc/passwd' %}",
		"imports":            "{% import '/etc/passwd' as p %}",
		"inherits":           "{% extends '/etc/passwd' %}",
		"stray end":          "{% endfor %}",
		"broken generation":  "{% generation x %}{% endgeneration %}",
		"endless generation": "{% generation %}",
	} {
		if c, err := ParseChatTemplate(source, nil); err == nil {
			if text, err := c.Render(nil, true, nil); err == nil {
				t.Errorf("%s: no error, but %q", name, text)
			}
		}
	}
	c, err := ParseChatTemplate("{{ raise_exception('no ' ~ messages[0].role) }}", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Render([]Message{{Role: "tool"}}, false, nil)
	var raised *TemplateError
	if !errors.As(err, &raised) || raised.Message != "no tool" {
		t.Errorf("raise_exception gives %v", err)
	}
	if _, err := c.Render(nil, false, map[string]any{"f": func() {}}); err == nil || !strings.Contains(err.Error(), "variable f") {
		t.Errorf("a function as a variable gives %v", err)
	}
}
