package configs

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// KeyError is a key that cannot be used.
type KeyError struct {
	Source  string // file:line, variable or flag; empty where unknown
	Key     string // path, e.g. "train.steps"
	Problem string
}

// Error is "source: key: problem".
func (e *KeyError) Error() string {
	if e.Source == "" {
		return e.Key + ": " + e.Problem
	}
	return e.Source + ": " + e.Key + ": " + e.Problem
}

// decoder fills Go values from YAML nodes. Strict, it wants numbers to be
// numbers and lists to be lists; loose, it also takes their text, as variables
// and flags give it, and names in any case, as viper gives them.
type decoder struct {
	source string
	loose  bool
}

func (d decoder) errorf(n *yaml.Node, key, format string, args ...any) error {
	source := d.source
	if source != "" && n != nil && n.Line > 0 && !d.loose {
		source += ":" + strconv.Itoa(n.Line)
	}
	return &KeyError{Source: source, Key: key, Problem: fmt.Sprintf(format, args...)}
}

// decode sets v from n. tag holds the limits of the field.
func (d decoder) decode(n *yaml.Node, key string, v reflect.Value, tag limits) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			return d.errorf(n, key, "is %s, want one value", kindOf(n))
		}
		if err := u.UnmarshalText([]byte(n.Value)); err != nil {
			return d.errorf(n, key, "%v", err)
		}
		return d.limit(n, key, v, tag)
	}
	switch v.Kind() {
	case reflect.Struct:
		return d.structure(n, key, v)
	case reflect.Slice:
		return d.slice(n, key, v, tag)
	}
	if n.Kind != yaml.ScalarNode {
		return d.errorf(n, key, "is %s, want %s", kindOf(n), typeName(v.Kind()))
	}
	resolved := n.Tag
	if d.loose && resolved == "!!str" && v.Kind() != reflect.String {
		var again yaml.Node
		if yaml.Unmarshal([]byte(n.Value), &again) == nil && len(again.Content) == 1 && again.Content[0].Kind == yaml.ScalarNode {
			resolved = again.Content[0].Tag
		}
	}
	mismatch := func() error {
		return d.errorf(n, key, "%q is not %s", n.Value, typeName(v.Kind()))
	}
	switch v.Kind() {
	case reflect.String:
		if n.Tag != "!!str" && !(d.loose && n.Tag != "!!null") {
			return d.errorf(n, key, "%q is %s, want text; put it in quotes", n.Value, strings.TrimPrefix(n.Tag, "!!"))
		}
		v.SetString(n.Value)
	case reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if resolved != "!!bool" || err != nil {
			return mismatch()
		}
		v.SetBool(b)
	case reflect.Int:
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if resolved != "!!int" || err != nil {
			return mismatch()
		}
		v.SetInt(i)
	case reflect.Uint64:
		u, err := strconv.ParseUint(n.Value, 10, 64)
		if resolved != "!!int" || err != nil {
			return mismatch()
		}
		v.SetUint(u)
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.Value, 64)
		if resolved != "!!int" && resolved != "!!float" || err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return mismatch()
		}
		v.SetFloat(f)
	default:
		panic("configs: a field of type " + v.Type().String())
	}
	return d.limit(n, key, v, tag)
}

// structure sets the fields that a mapping names.
func (d decoder) structure(n *yaml.Node, key string, v reflect.Value) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil // "train:" with nothing below keeps the defaults
	}
	if n.Kind != yaml.MappingNode {
		return d.errorf(n, orRoot(key), "is %s, want a table of keys", kindOf(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		f, ok := fieldNamed(v.Type(), name.Value, d.loose)
		if !ok && strings.Contains(name.Value, ".") {
			return d.errorf(name, join(key, name.Value), "unknown key; a dotted path is for --set, in a file each part is a table of its own")
		}
		if !ok {
			return d.errorf(name, join(key, name.Value), "unknown key%s", suggestion(join(key, name.Value)))
		}
		if seen[f.name] {
			return d.errorf(name, join(key, f.name), "is given twice")
		}
		seen[f.name] = true
		if err := d.decode(value, join(key, f.name), v.FieldByIndex(f.index), f.limits); err != nil {
			return err
		}
	}
	return nil
}

// slice replaces a list.
func (d decoder) slice(n *yaml.Node, key string, v reflect.Value, tag limits) error {
	if d.loose && n.Kind == yaml.ScalarNode {
		text := strings.TrimSpace(n.Value)
		if !strings.HasPrefix(text, "[") {
			text = "[" + text + "]"
		}
		var list yaml.Node
		if err := yaml.Unmarshal([]byte(text), &list); err != nil || len(list.Content) != 1 {
			return d.errorf(n, key, "%q is not a list", n.Value)
		}
		n = list.Content[0]
	}
	if n.Kind != yaml.SequenceNode {
		return d.errorf(n, key, "is %s, want a list", kindOf(n))
	}
	if v.Type() == reflect.TypeFor[Layers]() {
		var err error
		if n, err = d.spans(n, key, tag); err != nil {
			return err
		}
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		if err := d.decode(item, fmt.Sprintf("%s[%d]", key, i), out.Index(i), tag); err != nil {
			return err
		}
	}
	v.Set(out)
	return nil
}

// limit reports a value outside its field's limits.
func (d decoder) limit(n *yaml.Node, key string, v reflect.Value, l limits) error {
	if len(l.enum) > 0 {
		text := fmt.Sprint(v.Interface())
		for _, e := range l.enum {
			if e == text {
				return nil
			}
		}
		return d.errorf(n, key, "%q is not one of %s%s", text, strings.Join(nonEmpty(l.enum), ", "), didYouMean(text, l.enum))
	}
	if !l.ranged {
		return nil
	}
	if i := v.Int(); i < l.minimum || i > l.maximum {
		return d.errorf(n, key, "%s is out of range, want %d to %d", n.Value, l.minimum, l.maximum)
	}
	return nil
}

func nonEmpty(list []string) []string {
	var out []string
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

func orRoot(key string) string {
	if key == "" {
		return "the file"
	}
	return key
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a table"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "empty"
		}
		return "one value"
	}
	return "nothing"
}

func typeName(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Uint64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "text"
}
